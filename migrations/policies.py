"""Row level security on PostgreSQL: a transaction's setting `difffit.tenant` is a tenant's id, or `*` for all tenants.
Without it there are no rows."""

from alembic import op

# Subqueries, so that they are evaluated once per statement and not once per row. The planner takes both outcomes
# of a subquery as equally likely. It would expect almost no row to meet a comparison with a subquery's value.
TENANT = "(SELECT current_setting('difffit.tenant', true))"
EVERY = "(SELECT current_setting('difffit.tenant', true) = '*')"
OWNED = f"USING ({EVERY} OR tenant_id = {TENANT})"


def protect(table: str, tenant: str | None = OWNED, system: str | None = None) -> None:
    """Enables row level security with a policy for rows of tenants, one for the system, or both. It is forced, so that
    the tables' owner is bound too, where it is the service's only role."""
    for name, rule in {"tenant": tenant, "system": system}.items():
        if rule:
            op.execute(f"CREATE POLICY {name} ON {table} {rule}")
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
