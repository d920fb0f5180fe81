"""Adds the storage key and SHA-256 of each fine-tune's checkpoint before the last one."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("finetunes", schema=None) as batch_op:
        batch_op.add_column(sa.Column("previous_checkpoint_key", sa.String(length=500), nullable=True))
        batch_op.add_column(sa.Column("previous_checkpoint_sha256", sa.String(length=64), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("finetunes", schema=None) as batch_op:
        batch_op.drop_column("previous_checkpoint_sha256")
        batch_op.drop_column("previous_checkpoint_key")
