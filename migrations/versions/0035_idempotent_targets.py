"""Adds the object that a request with an idempotency key created or changed."""

import sqlalchemy as sa
from alembic import op

revision = "0035"
down_revision = "0034"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("idempotency_keys", sa.Column("target", sa.String(80), nullable=True))


def downgrade() -> None:
    op.drop_column("idempotency_keys", "target")
