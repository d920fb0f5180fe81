"""Indexes pending deliveries by their webhook, so that claims do not read the backlog of a tenant."""

import sqlalchemy as sa
from alembic import op

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None


def upgrade() -> None:
    pending = sa.text("status = 'pending'")
    op.create_index(
        "ix_webhook_deliveries_pending",
        "webhook_deliveries",
        ["webhook_id", "next_attempt_at", "id"],
        postgresql_where=pending,
        sqlite_where=pending,
    )
    op.drop_index("ix_webhook_deliveries_due", "webhook_deliveries")


def downgrade() -> None:
    op.create_index("ix_webhook_deliveries_due", "webhook_deliveries", ["status", "next_attempt_at"])
    op.drop_index("ix_webhook_deliveries_pending", "webhook_deliveries")
