"""Adds the adapter that a generation mixes into its own."""

import sqlalchemy as sa
from alembic import op

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("generations", schema=None) as batch_op:
        batch_op.add_column(sa.Column("mix_adapter_id", sa.String(length=40), nullable=True))
        batch_op.add_column(sa.Column("mix_class_id", sa.Integer(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("generations", schema=None) as batch_op:
        batch_op.drop_column("mix_class_id")
        batch_op.drop_column("mix_adapter_id")
