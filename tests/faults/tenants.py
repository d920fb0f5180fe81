"""Attempts to reach another tenant's rows: by every route with its ids, and from every table by raw SQL."""

import time
import uuid
from typing import Any

import psycopg

from tests.api.test_tenancy import BODIES, filled, operations
from tests.faults.stack import Outcome, Stack, until
from tests.faults.workers import ended, prepared, start_finetune
from tests.processes import Caller

NOBODYS = {"alembic_version", "base_models", "workers"}
"""Tables without a tenant's rows."""


def tenants_pry(stack: Stack) -> Outcome:
    """Requests everything that one tenant has as another tenant: by every route that the OpenAPI document has, and from
    every table that PostgreSQL's catalogue has, with the API's own role.

    Held: a route that knows nothing of it, an administrator's that is forbidden, a table that shows none of the rows
    that it has. Lost: one that tells.
    """
    started = time.monotonic()
    owner, ids = _owner_of_everything(stack)
    stranger = stack.tenant()
    own = stranger.post("/v1/domains", {"name": "own"})["id"]
    document = owner.get("/openapi.json")
    told = [name for name, answer in _asked(document, stranger, ids).items() if not answer]
    routes = len(_asked_of(document))
    tables, seen = _rows(stack, _tenant(stack, ids["domains"]), _tenant(stack, own))
    held = routes - len(told) + sum(not count for count in seen.values())
    lost = [*told, *(table for table, count in seen.items() if count)]
    note = f"{routes} routes, {tables} tables"
    if missing := tables - len(seen):
        note += f", {missing} of them without the owner's rows"
    return Outcome(
        "every route and table with another tenant's ids",
        "404 (403 of an administrator's route); 0 rows by raw SQL",
        routes + tables,
        held,
        len(lost),
        time.monotonic() - started,
        "; ".join([note, *lost]),
    )


def _owner_of_everything(stack: Stack) -> tuple[Caller, dict[str, str]]:
    """Returns a tenant with rows in every table that has tenants' rows, and its ids by path parameter."""
    caller, domain, dataset = prepared(stack)
    finetune = start_finetune(caller, domain, dataset, steps=2)
    until(lambda: ended(stack, "finetunes", finetune))
    body = {"class_id": 0, "steps": 4, "previews": 1}
    key = {"Idempotency-Key": str(uuid.uuid4())}
    generation = caller.send("POST", f"/v1/domains/{domain}/generations", json=body, headers=key).json()["id"]
    until(lambda: ended(stack, "generations", generation))
    gone = caller.post("/v1/domains", {"name": "gone"})["id"]
    deletion = caller.send("DELETE", f"/v1/domains/{gone}").raise_for_status().headers["location"].rpartition("/")[2]
    upload = caller.post(f"/v1/domains/{domain}/datasets/uploads", {"size_bytes": 5})["id"]
    webhook = caller.post("/v1/webhooks", {"url": "https://example.com/hooks"})["id"]
    discard = (
        "INSERT INTO discarded_objects (tenant_id, object_key, due_at) "
        "SELECT tenant_id, 'x', now() + interval '1 day' FROM domains WHERE id = %s RETURNING id"
    )
    stack.rows(discard, domain)
    query = "SELECT id FROM finetune_events WHERE finetune_id = %s AND type = 'sample'"
    adapter = str(caller.get(f"/v1/finetunes/{finetune}")["adapter_id"])
    (preview,) = caller.get(f"/v1/generations/{generation}")["previews"]
    return caller, {
        "domains": domain,
        "deletions": deletion,
        "{upload_id}": upload,
        "{number}": "1",
        "datasets": dataset,
        "finetunes": finetune,
        "adapters": adapter,
        "generations": generation,
        "webhooks": webhook,
        "{delivery_id}": caller.post(f"/v1/webhooks/{webhook}/test", {})["id"],
        "{adapter_id}": adapter,
        "{class_id}": "0",
        "{index}": "0",
        "{step}": str(preview["step"]),
        "{event_id}": str(stack.rows(query, finetune)[0]["id"]),
    }


def _asked_of(document: dict[str, Any]) -> list[tuple[str, str, str]]:
    administrators = [
        (method.upper(), path, operation["operationId"])
        for path, found in document["paths"].items()
        for method, operation in found.items()
        if path.startswith("/v1/admin")
    ]
    return [*operations(document), *administrators]


def _asked(document: dict[str, Any], stranger: Caller, ids: dict[str, str]) -> dict[str, bool]:
    """Returns for every route whether it held."""
    found = {}
    for method, path, operation in _asked_of(document):
        if path.startswith("/v1/admin"):
            answer = stranger.send(method, path.replace("{id}", "x"), json={})
            found[f"{method} {path}"] = answer.status_code == 403
            continue
        options = BODIES.get(operation, {})
        if operation == "create_finetune":
            options = {"json": {"dataset_id": ids["datasets"]}}
        answer = stranger.send(method, filled(path, ids), **options)
        found[f"{method} {path}"] = answer.status_code == 404 and answer.json()["code"] == "not_found"
    return found


def _tenant(stack: Stack, domain: str) -> str:
    return str(stack.rows("SELECT tenant_id FROM domains WHERE id = %s", domain)[0]["tenant_id"])


def _rows(stack: Stack, owner: str, stranger: str) -> tuple[int, dict[str, int]]:
    """Returns the number of tables that can have a tenant's rows. For those with the owner's rows, it also returns how
    many of them the API's role sees, as the stranger and without a tenant. A row is the owner's if any of its columns
    contains the owner's id."""
    query = "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace"
    tables = {str(row["relname"]) for row in stack.rows(query)} - NOBODYS
    mine = "SELECT count(*) AS n FROM {} AS found WHERE to_jsonb(found)::text LIKE '%%' || %s || '%%'"
    seen = {table: 0 for table in tables if stack.rows(mine.format(table), owner)[0]["n"]}
    with psycopg.connect(stack.environment["DIFFFIT_DATABASE_URL"]) as connection:
        for tenant in ("", stranger):
            connection.execute("SELECT set_config('difffit.tenant', %s, false)", [tenant])
            for table in seen:
                found = connection.execute(mine.format(table).encode(), [owner]).fetchone()
                seen[table] += int(found[0]) if found else 0
    return len(tables), seen
