"""Fills the database by SQL with one tenant's old rows: generations, and the images, previews, audit entries and
webhook deliveries that go with so many generations."""

from collections.abc import Mapping

import psycopg

TENANT, DOMAIN, OTHER = "ten_old", "dom_old", "dom_other"
_AGE = "clock_timestamp() - interval '60 days'"
_PREFIX = f"tenants/{TENANT}/domains/{DOMAIN}"
_STATEMENTS: Mapping[str, str] = {
    "tenants": f"INSERT INTO tenants (id, name, weight, quotas) VALUES ('{TENANT}', 'old', 1, '{{}}')",
    "domains": (
        "INSERT INTO domains (id, tenant_id, name, description, base_model, next_version, active_adapter_id) "
        f"SELECT id, '{TENANT}', id, '', 'mini', 1, 'adp_old' FROM unnest(ARRAY['{DOMAIN}', '{OTHER}']) AS id"
    ),
    "stored_bytes": f"INSERT INTO stored_bytes VALUES ('{DOMAIN}', '{TENANT}', 100000 * $generations::bigint), "
    f"('{OTHER}', '{TENANT}', 0)",
    # Every thousandth generation has failed and belongs to another domain, so that queries must find a few such rows
    # among many others.
    "generations": (
        "INSERT INTO generations (id, tenant_id, domain_id, class_id, class_name, count, seed, sampling, "
        "preview_count, progress, model_evaluations, timings, status, priority, attempt, failures, seconds, "
        "adapter_id, created_at, finished_at) "
        f"SELECT 'gen_' || lpad(number::text, 26, '0'), '{TENANT}', "
        f"CASE WHEN number % 1000 = 0 THEN '{OTHER}' ELSE '{DOMAIN}' END, 0, "
        "CASE WHEN number % 1000 = 500 THEN 'dog' ELSE 'cat' END, 1, number, '{}', "
        "1, 1, 100, '{}', CASE WHEN number % 1000 = 0 THEN 'failed' ELSE 'succeeded' END, 0, 1, 0, 1, 'adp_old', "
        f"{_AGE}, {_AGE} FROM generate_series(1, $generations) AS number"
    ),
    "generation_images": (
        'INSERT INTO generation_images (generation_id, "index", domain_id, tenant_id, object_key, seed, sha256, '
        "size_bytes, width, height, favourite_since, label) "
        f"SELECT id, 0, domain_id, '{TENANT}', '{_PREFIX}/generations/' || id || '/1/0.png', seed, repeat('0', 64), "
        "100000, 256, 256, CASE WHEN seed % 1000 = 1 THEN created_at END, CASE WHEN seed % 1000 = 2 THEN 'cover' END "
        "FROM generations WHERE status = 'succeeded'"
    ),
    "generation_previews": (
        'INSERT INTO generation_previews (generation_id, "index", step, tenant_id, object_key, sha256, size_bytes, '
        f"created_at) SELECT id, 0, 10, '{TENANT}', '{_PREFIX}/generations/' || id || '/1/preview.png', "
        f"repeat('0', 64), 0, {_AGE} FROM generations WHERE seed % 10 = 1"
    ),
    "audit_log": (
        "INSERT INTO audit_log (tenant_id, action, target, detail, created_at) SELECT "
        f"'{TENANT}', 'domain.change', 'dom_old', '{{}}', clock_timestamp() - interval '400 days' "
        "FROM generate_series(1, $generations / 10)"
    ),
    "webhooks": (
        "INSERT INTO webhooks (id, tenant_id, url, description, secret, previous_secrets, status) "
        f"VALUES ('wh_old', '{TENANT}', 'https://example.com', '', 'whsec_', '[]', 'enabled')"
    ),
    "webhook_deliveries": (
        "INSERT INTO webhook_deliveries (id, tenant_id, webhook_id, type, body, status, attempt, failures, attempts, "
        f"created_at) SELECT 'msg_' || number, '{TENANT}', 'wh_old', 'generation.succeeded', repeat('x', 300), "
        f"'succeeded', 1, 0, '[]', {_AGE} FROM generate_series(1, $generations / 10) AS number"
    ),
}
SWEPT = ("generation_images", "generation_previews", "audit_log", "webhook_deliveries")
"""Tables in which all of the tenant's rows are old enough for retention to delete them."""


def make(url: str, generations: int) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET difffit.tenant = '*'")
        for table, statement in _STATEMENTS.items():
            connection.execute(statement.replace("$generations", str(generations)).encode())
            connection.execute(f"ANALYZE {table}".encode())


def count(url: str) -> dict[str, int]:
    """Counts the tenant's rows that retention has not deleted yet, per table in `SWEPT`."""
    with psycopg.connect(url) as connection:
        connection.execute("SELECT set_config('difffit.tenant', '*', true)")
        counts = {}
        for table in SWEPT:
            query = f"SELECT count(*) FROM {table} WHERE tenant_id = '{TENANT}'".encode()
            counts[table] = int(connection.execute(query).fetchall()[0][0])
        return counts
