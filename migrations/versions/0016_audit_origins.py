"""Adds the client's address and the request to audit log entries."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

COLUMNS = {"address": 64, "request_id": 100}


def upgrade() -> None:
    for name, length in COLUMNS.items():
        op.add_column("audit_log", sa.Column(name, sa.String(length=length), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("audit_log", schema=None) as batch_op:
        for name in COLUMNS:
            batch_op.drop_column(name)
