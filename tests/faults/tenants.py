"""Attempts to reach another tenant's rows: by every route with its ids, and from every table by raw SQL."""

import time
import uuid
from typing import Any

import psycopg

from tests.api.test_tenancy import filled, operations, request_of
from tests.faults.stack import Outcome, Stack, until
from tests.faults.workers import ended, prepared, start_finetune
from tests.processes import Caller

SHARED_TABLES = {"alembic_version", "base_models", "workers"}
"""Tables without rows of tenants."""


def tenants_pry(stack: Stack) -> Outcome:
    """Requests everything of one tenant as another tenant, by every route in the OpenAPI document, and reads every
    table in PostgreSQL's catalogue with the API's role.

    Held: a route that responds "not found", an administrator's route that is forbidden, a table that shows no row.
    Lost: any other.
    """
    started = time.monotonic()
    owner, ids = _owner_of_everything(stack)
    stranger = stack.tenant()
    own = stranger.post("/v1/domains", {"name": "own"})["id"]
    document = owner.get("/openapi.json")
    leaking = [name for name, answer in _is_refused_by_route(document, stranger, ids).items() if not answer]
    routes = len(_operations_of(document))
    tables, seen = _rows(stack, _tenant(stack, ids["domains"]), _tenant(stack, own))
    held = routes - len(leaking) + sum(not count for count in seen.values())
    lost = [*leaking, *(table for table, count in seen.items() if count)]
    note = f"{routes} routes, {tables} tables"
    if missing := tables - len(seen):
        note += f", {missing} of them without the owner's rows"
    return Outcome(
        "every route and table with another tenant's ids",
        "404 (403 for an administrator's route); 0 rows by raw SQL",
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


def _operations_of(document: dict[str, Any]) -> list[tuple[str, str, str]]:
    administrators = [
        (method.upper(), path, operation["operationId"])
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if path.startswith("/v1/admin")
    ]
    return [*operations(document), *administrators]


def _is_refused_by_route(document: dict[str, Any], stranger: Caller, ids: dict[str, str]) -> dict[str, bool]:
    """Returns whether each route refuses the stranger, by its name."""
    is_refused = {}
    for method, path, operation in _operations_of(document):
        if path.startswith("/v1/admin"):
            answer = stranger.send(method, path.replace("{id}", "x"), json={})
            is_refused[f"{method} {path}"] = answer.status_code == 403
            continue
        answer = stranger.send(method, filled(path, ids), **request_of(operation, ids))
        is_refused[f"{method} {path}"] = answer.status_code == 404 and answer.json()["code"] == "not_found"
    return is_refused


def _tenant(stack: Stack, domain: str) -> str:
    return str(stack.rows("SELECT tenant_id FROM domains WHERE id = %s", domain)[0]["tenant_id"])


def _rows(stack: Stack, owner: str, stranger: str) -> tuple[int, dict[str, int]]:
    """Returns the number of tables that can have a tenant's rows. For those with the owner's rows, it also returns how
    many of them the API's role sees, as the stranger and without a tenant. A row is the owner's if any of its columns
    contains the owner's id."""
    query = "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace"
    tables = {str(row["relname"]) for row in stack.rows(query)} - SHARED_TABLES
    mine = "SELECT count(*) AS n FROM {} AS owned WHERE to_jsonb(owned)::text LIKE '%%' || %s || '%%'"
    seen = {table: 0 for table in tables if stack.rows(mine.format(table), owner)[0]["n"]}
    with psycopg.connect(stack.environment["DIFFFIT_DATABASE_URL"]) as connection:
        for tenant in ("", stranger):
            connection.execute("SELECT set_config('difffit.tenant', %s, false)", [tenant])
            for table in seen:
                counted = connection.execute(mine.format(table).encode(), [owner]).fetchone()
                seen[table] += int(counted[0]) if counted else 0
    return len(tables), seen
