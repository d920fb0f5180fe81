"""Adds the lifetime with which an API key was issued, which its successor gets too."""

import sqlalchemy as sa
from alembic import op

revision = "0034"
down_revision = "0033"
branch_labels = None
depends_on = None

SECONDS = {
    "postgresql": "extract(epoch FROM expires_at - created_at)",
    "sqlite": "(julianday(expires_at) - julianday(created_at)) * 86400",
}


def upgrade() -> None:
    """The lifetime of earlier API keys is the time from their creation to their expiry, at least a second."""
    with op.batch_alter_table("api_keys", schema=None) as batch_op:
        batch_op.add_column(sa.Column("lifetime_seconds", sa.Integer(), nullable=True))
    seconds = f"CAST(round({SECONDS[op.get_bind().dialect.name]}) AS integer)"
    op.execute(
        f"UPDATE api_keys SET lifetime_seconds = CASE WHEN {seconds} > 1 THEN {seconds} ELSE 1 END "
        "WHERE expires_at IS NOT NULL"
    )


def downgrade() -> None:
    with op.batch_alter_table("api_keys", schema=None) as batch_op:
        batch_op.drop_column("lifetime_seconds")
