"""Requests and files generated at random."""

import time

from core.service import keys
from tests.faults.stack import Outcome, Stack, until
from tests.faults.workers import GENERATION, ended, prepared, start_finetune
from tests.fuzzing import fuzz
from tests.fuzzing.files import try_mutants
from tests.processes import ADMIN, Caller


def document_holds(stack: Stack, examples: int, phases: str) -> Outcome:
    """Sends requests that the OpenAPI document allows and forbids, with a tenant's key, then with the
    administrator's."""
    started = time.monotonic()
    caller, domain, dataset = prepared(stack)
    finetune = start_finetune(caller, domain, dataset, steps=2)
    until(lambda: ended(stack, "finetunes", finetune))
    generation = str(caller.post(f"/v1/domains/{domain}/generations", GENERATION | {"steps": 2})["id"])
    until(lambda: ended(stack, "generations", generation))
    adapter = caller.get(f"/v1/finetunes/{finetune}")["adapter_id"]
    # Read before the requests, because one of them may delete the domain.
    tenants = [row["id"] for row in stack.rows("SELECT tenant_id AS id FROM domains WHERE id = %s", domain)]
    nouns = ("domains", "datasets", "finetunes", "adapters", "generations")
    ids = {noun: [value] for noun, value in zip(nouns, (domain, dataset, finetune, adapter, generation), strict=True)}
    runs = [fuzz(stack.url, caller.key, stack.folder, examples, ids, phases=phases)]
    admin = Caller(stack.http, ADMIN)
    key = admin.post("/v1/admin/keys", {"name": "fuzzing"})["key"]  # the requests may end administrators' keys
    runs.append(fuzz(stack.url, key, stack.folder, examples, {"tenants": tenants}, admin=True, phases=phases))
    only = "revoked_at = CASE WHEN id = %s THEN NULL::timestamptz ELSE now() END, expires_at = NULL"
    stack.rows(f"UPDATE api_keys SET {only} WHERE tenant_id IS NULL RETURNING id", keys.id_of(ADMIN))
    for tenant in tenants:  # also removes the jobs that the requests started
        admin.send("DELETE", f"/v1/admin/tenants/{tenant}")
    cases, failures = sum(run.cases for run in runs), sum(run.failures for run in runs)
    must = "no check of schemathesis fails; no response with status 500"
    seconds = time.monotonic() - started
    note = "; ".join(run.report for run in runs if run.failures)
    return Outcome("random requests by the OpenAPI document", must, cases, cases - failures, failures, seconds, note)


def files_hold(_stack: Stack, mutants: int) -> Outcome:
    """Sends mutated images of every format and mutated zips through the worker's reader."""
    started = time.monotonic()
    tried = try_mutants(0, mutants)
    must = "every accepted file can be trained on and shown; every refused one has a code; no process dies"
    bad = len(tried.broken) + len(tried.lost)
    note = "; ".join([f"{tried.validated} mutants accepted", *tried.broken[:5], *map(str, tried.lost[:5])])
    seconds = time.monotonic() - started
    return Outcome("mutated files", must, tried.mutants, tried.mutants - bad, bad, seconds, note)
