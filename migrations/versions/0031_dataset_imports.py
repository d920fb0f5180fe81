"""Adds the places from which the images of a data set are fetched."""

import sqlalchemy as sa
from alembic import op

from core.service.db.base import Json

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("datasets", sa.Column("to_fetch", Json(), nullable=True))


def downgrade() -> None:
    """Unfinished imports fail, since their images cannot be fetched any more."""
    with op.batch_alter_table("datasets", schema=None) as batch_op:
        batch_op.drop_column("to_fetch")
