"""Indexes deleted domains, whose rows tenants do not see until workers have deleted them."""

import sqlalchemy as sa
from alembic import op

revision = "0036"
down_revision = "0035"
branch_labels = None
depends_on = None


def upgrade() -> None:
    deleted = sa.text("deleted_at IS NOT NULL")
    op.create_index(
        "ix_domains_deleted", "domains", ["tenant_id", "id"], postgresql_where=deleted, sqlite_where=deleted
    )


def downgrade() -> None:
    op.drop_index("ix_domains_deleted", "domains")
