"""Adds the names of data sets."""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("datasets", sa.Column("name", sa.String(length=200), nullable=True))


def downgrade() -> None:
    op.drop_column("datasets", "name")
