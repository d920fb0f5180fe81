"""Adds to jobs the delay before they may be claimed again, and the blame for crashes of their workers; adds to workers
whether they are healthy."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

JOBS = ("datasets", "finetunes", "generations")


def upgrade() -> None:
    for table in JOBS:
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.add_column(sa.Column("requeues", sa.Integer(), server_default="0", nullable=False))
            batch_op.add_column(sa.Column("not_before", sa.DateTime(timezone=True), nullable=True))
            batch_op.add_column(sa.Column("crashes", sa.Integer(), server_default="0", nullable=False))
            batch_op.add_column(sa.Column("suspect", sa.Boolean(), server_default=sa.false(), nullable=False))
            batch_op.add_column(sa.Column("alone", sa.Boolean(), server_default=sa.true(), nullable=False))
            batch_op.drop_column("dispatched_at")
    with op.batch_alter_table("workers", schema=None) as batch_op:
        batch_op.add_column(sa.Column("healthy", sa.Boolean(), server_default=sa.true(), nullable=False))
        batch_op.add_column(sa.Column("problem", sa.Text(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("workers", schema=None) as batch_op:
        batch_op.drop_column("problem")
        batch_op.drop_column("healthy")
    for table in JOBS:
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.add_column(sa.Column("dispatched_at", sa.DateTime(timezone=True), nullable=True))
            for column in ("alone", "suspect", "crashes", "not_before", "requeues"):
                batch_op.drop_column(column)
