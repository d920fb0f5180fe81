"""Creates the tables of the first release. Databases at an earlier revision were never released and cannot be upgraded.

Keys and indexes without an explicit name are named by the naming convention of the models.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

from core.service.db.base import Json, Now, UtcDateTime
from migrations.policies import EVERY, TENANT, protect

revision = "0008"
down_revision = None
branch_labels = None
depends_on = None

ID = sa.String(40)
DIGEST = sa.String(64)
SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

OWNED = (
    "adapters", "audit_log", "dataset_uploads", "datasets", "domains", "finetune_events", "finetunes",
    "generation_images", "generation_previews", "generations", "idempotency_keys", "usage_days", "webhook_deliveries",
    "webhooks",
)
OF_PREFIX = f"starts_with(prefix, 'tenants/' || {TENANT} || '/')"
FUNCTION = """
    CREATE FUNCTION {name}(wanted text) RETURNS {type}
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
    DECLARE
        asking text := coalesce(current_setting('difffit.tenant', true), '');
        {variable}
    BEGIN
        PERFORM set_config('difffit.tenant', '*', true);
        {statement}
        PERFORM set_config('difffit.tenant', asking, true);
        {result}
    END $$
"""
FUNCTIONS = (
    ("api_key_by_id", "SETOF api_keys", "", "RETURN QUERY SELECT * FROM api_keys WHERE id = wanted;", ""),
    ("note_api_key_use", "void", "", "UPDATE api_keys SET last_used_at = clock_timestamp() WHERE id = wanted;", ""),
    (
        "tenant_quotas", "jsonb", "found jsonb;",
        "SELECT quotas INTO found FROM tenants WHERE id = wanted;", "RETURN found;",
    ),
)
REFUSE_CHANGE = """
    CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'The audit log is append-only.' USING ERRCODE = 'insufficient_privilege';
    END $$
"""
APPEND_ONLY = """
    CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()
"""


def upgrade() -> None:
    _create_tenants()
    _create_domains()
    _create_jobs()
    _create_results()
    _create_webhooks()
    _create_records()
    if op.get_bind().dialect.name == "postgresql":
        _protect()


def downgrade() -> None:
    is_postgresql = op.get_bind().dialect.name == "postgresql"
    if is_postgresql:
        for name, *_ in FUNCTIONS:
            op.execute(f"DROP FUNCTION {name}(text)")
    for table in (
        "audit_log", "base_models", "deletions", "idempotency_keys", "usage_days", "workers", "webhook_deliveries",
        "webhooks", "finetune_events", "generation_images", "generation_previews", "finetunes", "generations", "datasets",
        "dataset_uploads", "adapters", "domains", "api_keys", "tenants",
    ):
        op.drop_table(table)
    if is_postgresql:
        op.execute("DROP FUNCTION refuse_change()")


def _required(name: str, type_: Any, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, type_, nullable=False, **options)


def _id() -> sa.Column[Any]:
    return sa.Column("id", ID, primary_key=True)


def _created(name: str = "created_at") -> sa.Column[Any]:
    return _required(name, UtcDateTime(), server_default=Now())


def _owner(name: str, table: str, *, nullable: bool = False, index: bool = True, **options: Any) -> sa.Column[Any]:
    """Returns a foreign-key column to the id of another table. Deleting the referenced row deletes the rows that refer
    to it."""
    key = sa.ForeignKey(f"{table}.id", ondelete="CASCADE")
    return sa.Column(name, ID, key, nullable=nullable, index=index, **options)


def _tenant(**options: Any) -> sa.Column[Any]:
    return _owner("tenant_id", "tenants", **options)


def _domain() -> sa.Column[Any]:
    return _owner("domain_id", "domains")


def _job() -> tuple[sa.Column[Any], ...]:
    """Returns the columns that all kinds of jobs have."""
    return (
        _id(),
        _tenant(),
        _required("status", sa.String(20), index=True),
        _required("priority", sa.Integer()),
        _required("attempt", sa.Integer()),
        _required("failures", sa.Integer()),
        sa.Column("worker_id", sa.String(80)),
        sa.Column("lease_expires_at", UtcDateTime()),
        sa.Column("cancel_requested_at", UtcDateTime()),
        sa.Column("dispatched_at", UtcDateTime()),
        sa.Column("started_at", UtcDateTime()),
        sa.Column("finished_at", UtcDateTime()),
        sa.Column("error_code", sa.String(60)),
        sa.Column("error_detail", sa.Text()),
        _created(),
        _required("seconds", sa.Float()),
        sa.Column("request_id", sa.String(100)),
        sa.Column("traceparent", sa.String(55)),
    )


def _create_tenants() -> None:
    op.create_table(
        "tenants",
        _id(),
        _required("name", sa.String(200)),
        _required("weight", sa.Double()),
        _required("quotas", Json()),
        _created(),
        sa.UniqueConstraint("name"),
    )
    op.create_table(
        "api_keys",
        _id(),
        _tenant(nullable=True),
        _required("name", sa.String(200)),
        _required("scopes", Json()),
        _required("secret_hash", DIGEST),
        _created(),
        sa.Column("expires_at", UtcDateTime()),
        sa.Column("revoked_at", UtcDateTime()),
        sa.Column("last_used_at", UtcDateTime()),
    )


def _create_domains() -> None:
    op.create_table(
        "domains",
        _id(),
        _tenant(),
        _required("name", sa.String(200)),
        _required("description", sa.Text()),
        _required("base_model", sa.String(500)),
        sa.Column("active_adapter_id", ID),
        _required("next_version", sa.Integer()),
        _created(),
        _created("updated_at"),
        sa.UniqueConstraint("tenant_id", "name"),
    )
    op.create_table(
        "adapters",
        _id(),
        _tenant(),
        _domain(),
        sa.Column("finetune_id", ID, index=True),
        _required("version", sa.Integer()),
        _required("status", sa.String(20)),
        _required("object_key", sa.String(500)),
        _required("sha256", DIGEST, index=True),
        _required("size_bytes", sa.BigInteger()),
        _required("parameters", sa.BigInteger()),
        _required("base_digest", DIGEST, index=True),
        _required("method", sa.String(20)),
        sa.Column("preset", sa.String(20)),
        _required("manifest", Json()),
        _created(),
        sa.Column("last_used_at", UtcDateTime()),
        sa.UniqueConstraint("domain_id", "version"),
    )
    op.create_table(
        "dataset_uploads",
        _id(),
        _tenant(),
        _domain(),
        _required("dataset_id", ID),
        _required("status", sa.String(20)),
        sa.Column("filename", sa.String(255)),
        _required("size_bytes", sa.BigInteger()),
        _required("part_bytes", sa.BigInteger()),
        sa.Column("sha256", DIGEST),
        _required("object_key", sa.String(500)),
        _required("store_upload", sa.Text()),
        sa.Column("error_code", sa.String(60)),
        sa.Column("error_detail", sa.Text()),
        _created(),
        _required("expires_at", UtcDateTime()),
    )


def _create_jobs() -> None:
    op.create_table(
        "datasets",
        _domain(),
        _required("archive_key", sa.String(500)),
        _required("archive_sha256", DIGEST),
        _required("size_bytes", sa.BigInteger()),
        sa.Column("digest", DIGEST),
        _required("classes", Json()),
        _required("images", sa.Integer()),
        _required("members", Json()),
        _required("report", Json()),
        *_job(),
    )
    op.create_table(
        "finetunes",
        _domain(),
        _owner("dataset_id", "datasets"),
        _required("method", sa.String(20)),
        sa.Column("preset", sa.String(20)),
        _required("sites", Json()),
        _required("steps", sa.Integer()),
        _required("batch_size", sa.Integer()),
        _required("learning_rate", sa.Double()),
        _required("seed", sa.BigInteger()),
        sa.Column("image_size", sa.Integer()),
        _required("auto_promote", sa.Boolean()),
        _required("step", sa.Integer()),
        sa.Column("loss", sa.Double()),
        sa.Column("held_out_loss_base", sa.Double()),
        sa.Column("held_out_loss_adapter", sa.Double()),
        sa.Column("held_out_loss_adapter_null", sa.Double()),
        sa.Column("eta_seconds", sa.Double()),
        sa.Column("trainable_parameters", sa.Integer()),
        sa.Column("adapter_id", ID),
        sa.Column("checkpoint_key", sa.String(500)),
        sa.Column("checkpoint_sha256", DIGEST),
        _required("checkpoint_step", sa.Integer()),
        sa.Column("checkpoint_at", UtcDateTime()),
        *_job(),
    )
    op.create_table(
        "generations",
        _domain(),
        sa.Column("adapter_id", ID, index=True),
        _required("class_id", sa.Integer()),
        _required("class_name", sa.String(200)),
        _required("count", sa.Integer()),
        _required("seed", sa.BigInteger()),
        _required("steps", sa.Integer()),
        _required("guidance_scale", sa.Double()),
        _required("guidance_from", sa.Integer(), server_default="0"),
        _required("guidance_to", sa.Integer(), server_default="999"),
        _required("sampler", sa.String(20)),
        _required("eta", sa.Double(), server_default="0"),
        _required("preview_count", sa.Integer(), server_default="0"),
        sa.Column("deadline_at", UtcDateTime()),
        _required("progress", sa.Double()),
        _required("row_steps", sa.Integer()),
        _required("timings", Json()),
        *_job(),
    )


def _create_results() -> None:
    op.create_table(
        "finetune_events",
        sa.Column("id", SERIAL, primary_key=True, autoincrement=True),
        _tenant(),
        _owner("finetune_id", "finetunes"),
        _required("type", sa.String(20)),
        _required("data", Json()),
        _created(),
    )
    op.create_table(
        "generation_images",
        _owner("generation_id", "generations", index=False, primary_key=True),
        sa.Column("index", sa.Integer(), primary_key=True),
        _tenant(),
        _required("object_key", sa.String(500)),
        _required("seed", sa.BigInteger()),
        _required("sha256", DIGEST),
        _required("size_bytes", sa.BigInteger()),
        _required("width", sa.Integer()),
        _required("height", sa.Integer()),
    )
    op.create_table(
        "generation_previews",
        _owner("generation_id", "generations", index=False, primary_key=True),
        sa.Column("index", sa.Integer(), primary_key=True),
        sa.Column("step", sa.Integer(), primary_key=True),
        _tenant(),
        _required("object_key", sa.String(500)),
        _required("sha256", DIGEST),
    )


def _create_webhooks() -> None:
    op.create_table(
        "webhooks",
        _id(),
        _tenant(),
        _required("url", sa.String(2000)),
        _required("description", sa.Text()),
        sa.Column("events", Json()),
        _required("secret", sa.String(100)),
        _required("previous_secrets", Json()),
        _required("status", sa.String(20)),
        sa.Column("disabled_code", sa.String(60)),
        sa.Column("disabled_detail", sa.Text()),
        sa.Column("last_success_at", UtcDateTime()),
        _created(),
        _created("updated_at"),
    )
    op.create_table(
        "webhook_deliveries",
        _id(),
        _tenant(),
        _owner("webhook_id", "webhooks"),
        _required("type", sa.String(60)),
        _required("body", sa.Text()),
        _required("status", sa.String(20)),
        _required("attempt", sa.Integer()),
        _required("failures", sa.Integer()),
        _required("attempts", Json()),
        sa.Column("next_attempt_at", UtcDateTime()),
        sa.Column("lease_expires_at", UtcDateTime(), index=True),
        _required("created_at", UtcDateTime(), server_default=Now(), index=True),
        sa.Column("finished_at", UtcDateTime()),
    )
    op.create_index("ix_webhook_deliveries_due", "webhook_deliveries", ["status", "next_attempt_at"])


def _create_records() -> None:
    op.create_table(
        "audit_log",
        sa.Column("id", SERIAL, primary_key=True, autoincrement=True),
        sa.Column("tenant_id", ID, index=True),
        sa.Column("actor_key_id", ID),
        _required("action", sa.String(60)),
        _required("target", sa.String(80)),
        _required("detail", Json()),
        _created(),
    )
    op.create_table(
        "base_models",
        sa.Column("name", sa.String(500), primary_key=True),
        _required("digest", DIGEST),
        _required("description", Json()),
        _created("loaded_at"),
    )
    op.create_table(
        "deletions",
        _id(),
        _required("tenant_id", ID, server_default="", index=True),
        _required("prefix", sa.String(500)),
        _required("kind", sa.String(20), server_default="domain"),
        _required("target", ID, server_default=""),
        sa.Column("actor_key_id", ID),
        _required("rows", Json(), server_default="{}"),
        _required("adapters", Json(), server_default="[]"),
        _required("objects", sa.BigInteger(), server_default="0"),
        _required("bytes", sa.BigInteger(), server_default="0"),
        _created(),
        sa.Column("claimed_until", UtcDateTime()),
        sa.Column("emptied_at", UtcDateTime()),
        sa.Column("done_at", UtcDateTime(), index=True),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("scope", sa.String(80), primary_key=True),
        sa.Column("key", sa.String(255), primary_key=True),
        _tenant(nullable=True),
        _required("request_digest", DIGEST),
        sa.Column("status_code", sa.Integer()),
        sa.Column("body", Json()),
        _created(),
    )
    op.create_table(
        "usage_days",
        _tenant(index=False, primary_key=True),
        sa.Column("day", sa.Date(), primary_key=True),
        _required("images", sa.BigInteger()),
        _required("row_steps", sa.BigInteger()),
        _required("training_seconds", sa.Double()),
    )
    op.create_table(
        "workers",
        _id(),
        _required("hostname", sa.String(200)),
        _required("pid", sa.Integer()),
        _required("device", sa.String(100)),
        sa.Column("base_digest", DIGEST),
        _required("queues", Json()),
        _required("resident", Json()),
        _created("started_at"),
        _created("heartbeat_at"),
        sa.Column("evicted_at", UtcDateTime()),
    )


def _protect() -> None:
    for table in OWNED:
        protect(table)
    # A tenant may read its own row, but not change its weight and quotas.
    protect("tenants", tenant=f"FOR SELECT USING (id = {TENANT})", system=f"USING ({EVERY})")
    # Tenants cannot read API keys. FUNCTIONS look up the caller's key, before the caller's tenant is known.
    protect("api_keys", tenant=None, system=f"USING ({EVERY})")
    protect("deletions", tenant=f"USING ({EVERY} OR (tenant_id = {TENANT} AND {OF_PREFIX}))")
    schema = op.get_bind().execute(sa.text("SELECT quote_ident(current_schema())")).scalar_one()
    for name, type_, variable, statement, result in FUNCTIONS:
        op.execute(FUNCTION.format(
            name=name, type=type_, schema=schema, variable=variable, statement=statement, result=result
        ))
        op.execute(f"REVOKE EXECUTE ON FUNCTION {name}(text) FROM PUBLIC")
    op.execute(REFUSE_CHANGE)
    op.execute(APPEND_ONLY)
