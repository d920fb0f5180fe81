"""Function that returns a tenant's quotas with the caller's key, before the tenant is known."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

FUNCTION = """
    CREATE FUNCTION tenant_quotas(wanted text) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
    DECLARE
        asking text := coalesce(current_setting('difffit.tenant', true), '');
        found jsonb;
    BEGIN
        PERFORM set_config('difffit.tenant', '*', true);
        SELECT quotas INTO found FROM tenants WHERE id = wanted;
        PERFORM set_config('difffit.tenant', asking, true);
        RETURN found;
    END $$
"""


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        schema = op.get_bind().execute(sa.text("SELECT quote_ident(current_schema())")).scalar_one()
        op.execute(FUNCTION.format(schema=schema))
        op.execute("REVOKE EXECUTE ON FUNCTION tenant_quotas(text) FROM PUBLIC")


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION tenant_quotas(text)")
