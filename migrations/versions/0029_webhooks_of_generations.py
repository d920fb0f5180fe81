"""Adds the webhook of a single generation."""

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("generations", sa.Column("webhook_id", sa.String(length=40), nullable=True))
    op.add_column("generations", sa.Column("webhook_url", sa.String(length=2000), nullable=True))
    op.add_column("webhook_deliveries", sa.Column("url", sa.String(length=2000), nullable=True))


def downgrade() -> None:
    """Waiting deliveries to a generation's own URL would go to the webhook's URL, so they are deleted."""
    op.execute("DELETE FROM webhook_deliveries WHERE url IS NOT NULL")
    with op.batch_alter_table("webhook_deliveries", schema=None) as batch_op:
        batch_op.drop_column("url")
    with op.batch_alter_table("generations", schema=None) as batch_op:
        batch_op.drop_column("webhook_url")
        batch_op.drop_column("webhook_id")
