"""Drops the foreign key from daily usage to tenants, so that the usage of a deleted tenant stays, for bills."""

from alembic import op

revision = "0037"
down_revision = "0036"
branch_labels = None
depends_on = None

KEY = "fk_usage_days_tenant_id"


def upgrade() -> None:
    with op.batch_alter_table("usage_days", schema=None) as batch_op:
        batch_op.drop_constraint(KEY, type_="foreignkey")


def downgrade() -> None:
    """Deletes the usage of deleted tenants, since the foreign key does not allow it."""
    op.execute("DELETE FROM usage_days WHERE tenant_id NOT IN (SELECT id FROM tenants)")
    with op.batch_alter_table("usage_days", schema=None) as batch_op:
        batch_op.create_foreign_key(KEY, "tenants", ["tenant_id"], ["id"], ondelete="CASCADE")
