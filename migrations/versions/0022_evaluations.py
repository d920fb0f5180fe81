"""Adds the step that a fine-tune's adapter is of, and the reason why its training ended."""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("finetunes") as table:
        table.add_column(sa.Column("adapter_step", sa.Integer(), nullable=True))
        table.add_column(sa.Column("stop_reason", sa.String(20), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("finetunes") as table:
        table.drop_column("stop_reason")
        table.drop_column("adapter_step")
