"""Adds whether a fine-tune trains the class table."""

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """All earlier fine-tunes trained it."""
    with op.batch_alter_table("finetunes", schema=None) as batch_op:
        batch_op.add_column(sa.Column("train_class_table", sa.Boolean(), server_default=sa.true(), nullable=False))
    with op.batch_alter_table("finetunes", schema=None) as batch_op:
        batch_op.alter_column(
            "train_class_table", existing_type=sa.Boolean(), existing_nullable=False, server_default=None
        )


def downgrade() -> None:
    with op.batch_alter_table("finetunes", schema=None) as batch_op:
        batch_op.drop_column("train_class_table")
