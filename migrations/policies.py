"""Row-level security on PostgreSQL. A transaction's setting `difffit.tenant` is a tenant's id, or `*` for all tenants;
a transaction without the setting sees no rows."""

from alembic import op

# Subqueries are evaluated once per statement, not once per row. EVERY compares within the subquery: the planner then
# takes both outcomes as equally likely. With the comparison outside, it would expect almost no row to match.
TENANT = "(SELECT current_setting('difffit.tenant', true))"
EVERY = "(SELECT current_setting('difffit.tenant', true) = '*')"
OWNED = f"USING ({EVERY} OR tenant_id = {TENANT})"


def protect(table: str, tenant: str | None = OWNED, system: str | None = None) -> None:
    """Enables row-level security on a table, with the policy `tenant` for tenants' rows, the policy `system` for the
    service itself, or both. It is forced, so that it also binds the tables' owner, which may be the service's only
    role."""
    for name, rule in {"tenant": tenant, "system": system}.items():
        if rule:
            op.execute(f"CREATE POLICY {name} ON {table} {rule}")
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
