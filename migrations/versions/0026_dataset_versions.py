"""Adds versions of data sets, whose images are in the zips of other data sets."""

import sqlalchemy as sa
from alembic import op

from core.service.db.base import Json

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("datasets", sa.Column("parent_id", sa.String(length=40), nullable=True))
    op.add_column("datasets", sa.Column("sources", Json(), server_default="[]", nullable=False))


def downgrade() -> None:
    """Versions stay as rows, but earlier releases cannot read the images of their sources."""
    with op.batch_alter_table("datasets", schema=None) as batch_op:
        batch_op.drop_column("sources")
        batch_op.drop_column("parent_id")
