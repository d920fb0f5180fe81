"""Adds the size in bytes of each fine-tune's checkpoint before the last one: 0 for existing checkpoints, since their
sizes were not recorded."""

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
