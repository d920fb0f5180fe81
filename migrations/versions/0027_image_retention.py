"""Adds retention periods of images to domains and tenants."""

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

TABLES = ("domains", "tenants")


def upgrade() -> None:
    for table in TABLES:
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.add_column(sa.Column("keep_image_days", sa.Integer(), nullable=True))
            batch_op.add_column(sa.Column("keep_favourites", sa.Boolean(), nullable=False, server_default=sa.true()))


def downgrade() -> None:
    for table in TABLES:
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.drop_column("keep_favourites")
            batch_op.drop_column("keep_image_days")
