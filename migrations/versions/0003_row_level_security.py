"""Row level security on PostgreSQL, an append-only audit log, and the tenant of idempotency keys.

The setting `difffit.tenant` of a transaction is a tenant's id, or `*` for all of them. Without it there are no rows.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

OWNED = (
    "adapters", "audit_log", "datasets", "domains", "finetune_events", "finetunes", "generation_images",
    "generation_previews", "generations", "idempotency_keys", "usage_days",
)
TABLES = (*OWNED, "api_keys", "deletions", "tenants")

# Subqueries, so that they are asked once a statement and not once a row. The planner takes a subquery's truth for as
# likely as not: as a comparison of its value it would expect a worker's queries to find next to nothing.
TENANT = "(SELECT current_setting('difffit.tenant', true))"
EVERY = "(SELECT current_setting('difffit.tenant', true) = '*')"

POLICIES = [
    *((table, "tenant", f"USING ({EVERY} OR tenant_id = {TENANT})") for table in OWNED),
    # A tenant reads its own row; weight and quotas are not its to change.
    ("tenants", "tenant", f"FOR SELECT USING (id = {TENANT})"),
    ("tenants", "system", f"USING ({EVERY})"),
    # Who asks is told by the functions below, before there is a tenant.
    ("api_keys", "system", f"USING ({EVERY})"),
    ("deletions", "tenant", f"USING ({EVERY} OR starts_with(prefix, 'tenants/' || {TENANT} || '/'))"),
]

FUNCTIONS = {
    "api_key_by_id(text)": """
        CREATE FUNCTION api_key_by_id(wanted text) RETURNS SETOF api_keys
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
        DECLARE
            asking text := coalesce(current_setting('difffit.tenant', true), '');
        BEGIN
            PERFORM set_config('difffit.tenant', '*', true);
            RETURN QUERY SELECT * FROM api_keys WHERE id = wanted;
            PERFORM set_config('difffit.tenant', asking, true);
        END $$
    """,
    "note_api_key_use(text)": """
        CREATE FUNCTION note_api_key_use(wanted text) RETURNS void
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
        DECLARE
            asking text := coalesce(current_setting('difffit.tenant', true), '');
        BEGIN
            PERFORM set_config('difffit.tenant', '*', true);
            UPDATE api_keys SET last_used_at = clock_timestamp() WHERE id = wanted;
            PERFORM set_config('difffit.tenant', asking, true);
        END $$
    """,
}


def upgrade() -> None:
    with op.batch_alter_table("idempotency_keys", schema=None) as batch_op:
        batch_op.add_column(sa.Column("tenant_id", sa.String(length=40), nullable=True))
        batch_op.create_foreign_key(
            op.f("fk_idempotency_keys_tenant_id"), "tenants", ["tenant_id"], ["id"], ondelete="CASCADE"
        )
        batch_op.create_index(op.f("ix_idempotency_keys_tenant_id"), ["tenant_id"], unique=False)
    op.execute(
        "UPDATE idempotency_keys SET tenant_id = (SELECT tenant_id FROM api_keys WHERE id = idempotency_keys.scope)"
    )
    if op.get_bind().dialect.name == "postgresql":
        _protect()


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        _unprotect()
    with op.batch_alter_table("idempotency_keys", schema=None) as batch_op:
        batch_op.drop_index(op.f("ix_idempotency_keys_tenant_id"))
        batch_op.drop_constraint(op.f("fk_idempotency_keys_tenant_id"), type_="foreignkey")
        batch_op.drop_column("tenant_id")


def _protect() -> None:
    for table, name, rule in POLICIES:
        op.execute(f"CREATE POLICY {name} ON {table} {rule}")
    for table in TABLES:
        # Forced, so that the owner of the tables is bound too, where it is the service's only role.
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    schema = op.get_bind().execute(sa.text("SELECT quote_ident(current_schema())")).scalar_one()
    for signature, definition in FUNCTIONS.items():
        op.execute(definition.format(schema=schema))
        op.execute(f"REVOKE EXECUTE ON FUNCTION {signature} FROM PUBLIC")
    op.execute(
        """
        CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'The audit log is append-only.' USING ERRCODE = 'insufficient_privilege';
        END $$
        """
    )
    op.execute(
        "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )


def _unprotect() -> None:
    op.execute("DROP TRIGGER append_only ON audit_log")
    for signature in ("refuse_change()", *FUNCTIONS):
        op.execute(f"DROP FUNCTION {signature}")
    for table in TABLES:
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY")
    for table, name, _ in POLICIES:
        op.execute(f"DROP POLICY {name} ON {table}")
