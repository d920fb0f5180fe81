"""Bytes of the checkpoint before the last one. Of those that are there by now they were never counted: zero."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("finetunes", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column("previous_checkpoint_bytes", sa.BigInteger(), nullable=False, server_default="0")
        )


def downgrade() -> None:
    with op.batch_alter_table("finetunes", schema=None) as batch_op:
        batch_op.drop_column("previous_checkpoint_bytes")
