"""Indexes the responses stored for idempotency keys by their objects, which may be deleted."""

import sqlalchemy as sa
from alembic import op

revision = "0038"
down_revision = "0037"
branch_labels = None
depends_on = None

TABLE = "idempotency_keys"


def upgrade() -> None:
    """Responses that are stored already stay without these values, and are found by their bodies."""
    op.add_column(TABLE, sa.Column("object_id", sa.String(80), nullable=True))
    op.add_column(TABLE, sa.Column("object_domain_id", sa.String(40), nullable=True))
    op.create_index("ix_idempotency_keys_tenant_id_object_id", TABLE, ["tenant_id", "object_id"])
    op.create_index("ix_idempotency_keys_tenant_id_object_domain_id", TABLE, ["tenant_id", "object_domain_id"])
    op.drop_index("ix_idempotency_keys_tenant_id", TABLE)  # the others begin with the same column


def downgrade() -> None:
    op.create_index("ix_idempotency_keys_tenant_id", TABLE, ["tenant_id"])
    op.drop_index("ix_idempotency_keys_tenant_id_object_domain_id", TABLE)
    op.drop_index("ix_idempotency_keys_tenant_id_object_id", TABLE)
    op.drop_column(TABLE, "object_domain_id")
    op.drop_column(TABLE, "object_id")
