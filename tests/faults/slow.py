"""Slow work: one tenant's must not slow down another's, and a slow store must not slow down requests that do not use
it."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from statistics import median

import httpx

from api.threads import STORE
from tests.faults.clients import held_connections
from tests.faults.stack import Outcome, until
from tests.faults.storage import StackOnS3
from tests.faults.workers import ended, prepared, start_finetune
from tests.processes import Caller
from tests.test_main_job import upload

SLOWER = 2.0
"""Maximum ratio of a tenant's time next to a greedy tenant to its time alone."""
LIVE_WITHIN, ROWS_WITHIN = 0.2, 1.0
"""Maximum response times of the health check and of database reads, in seconds."""
STEPS = 10
"""Sampling steps of every generation."""
DOWNLOADS = 4
"""Concurrent adapter downloads during the reads of images; fewer than one tenant's maximum."""


def tenants_are_slow(stack: StackOnS3, generations: int, datasets: int, seconds: float, times: int) -> Outcome:
    """Measures one tenant's uploads and generations, alone and while another tenant sends generations, and data sets
    that the store delivers slowly.

    Late: the median takes more than twice as long meanwhile.
    """
    started = time.monotonic()
    greedy, busy, _ = prepared(stack)
    caller, domain, _ = prepared(stack)
    tasks = {"data set": partial(_validate, stack, caller, domain), "generation": partial(_draw, stack, caller, domain)}
    for task in tasks.values():
        task()  # warm-up: one-time loading is not counted
    alone = {name: [task() for _ in range(times)] for name, task in tasks.items()}
    stack.proxy.delay(seconds, busy)
    body = {"class_id": 0, "steps": STEPS, "adapter_id": "base"}
    with ThreadPoolExecutor(6) as pool:
        sent = [("datasets", str(row["id"])) for row in pool.map(upload, [greedy] * datasets, [busy] * datasets)]
    sent += [
        ("generations", str(greedy.post(f"/v1/domains/{busy}/generations", body)["id"])) for _ in range(generations)
    ]
    together = {name: [task() for _ in range(times)] for name, task in tasks.items()}
    left = {table: sum(not _done(stack, *job) for job in sent if job[0] == table) for table in dict(sent)}
    stack.proxy.mend()
    until(lambda: all(_done(stack, *job) for job in sent))
    figures = {name: (median(alone[name]), median(together[name])) for name in tasks}
    lost = sum(_row_status(stack, *job) not in {"succeeded", "ready"} for job in sent)
    notes = [f"{name} {before:.2f} s alone, {after:.2f} s next to them" for name, (before, after) in figures.items()]
    notes.append(f"{left['datasets']} data sets and {left['generations']} generations left at the end")
    tried, held = 2 * times, sum(len(taken) for taken in together.values())
    return Outcome(
        f"another tenant's {generations} generations and {datasets} slow data sets",
        f"a data set and a generation take at most {SLOWER:.0f} times as long",
        tried,
        held,
        lost,
        time.monotonic() - started,
        "; ".join(notes),
        sum(after > SLOWER * before for before, after in figures.values()),
    )


def store_is_slow(stack: StackOnS3, reads: int, seconds: float) -> Outcome:
    """Delays the store for every thread that reads it, while database rows are read and the health check is requested.

    Held: a read that succeeds or is refused with Retry-After. Late: a slow response to a request that needs no store.
    """
    started = time.monotonic()
    caller, domain, dataset = prepared(stack)
    finetune = start_finetune(caller, domain, dataset, steps=1)
    until(lambda: ended(stack, "finetunes", finetune))
    adapter = caller.get(f"/v1/finetunes/{finetune}")["adapter_id"]
    body = {"class_id": 0, "steps": 2, "count": 4}
    generation = str(caller.post(f"/v1/domains/{domain}/generations", body)["id"])
    until(lambda: ended(stack, "generations", generation))
    urls = [image["url"] for image in caller.get(f"/v1/generations/{generation}")["images"]]
    key = {"Authorization": f"Bearer {caller.key}"}
    asks = [partial(httpx.get, f"{stack.url}/v1/adapters/{adapter}/download", headers=key)] * DOWNLOADS
    asks += [partial(httpx.get, urls[index % len(urls)]) for index in range(reads)]
    stack.proxy.delay(seconds)
    # A separate client, because creating one takes longer than a response. Each probe reconnects, as in Kubernetes.
    with (
        httpx.Client(base_url=stack.url, headers={"Connection": "close"}) as probe,
        ThreadPoolExecutor(len(asks)) as pool,
    ):
        answers = [pool.submit(ask, timeout=300) for ask in asks]
        until(lambda: stack.proxy.waiting >= STORE.threads, seconds=60)
        slow_from = time.monotonic()
        live, rows = [0.0], [0.0]
        while time.monotonic() - slow_from < seconds / 2:
            live.append(_seconds(lambda: probe.get("/livez").raise_for_status()))
            rows.append(_seconds(lambda: caller.get(f"/v1/domains/{domain}/generations")))
        busy = min(stack.proxy.waiting, STORE.threads)
        connections = held_connections(stack)
        stack.proxy.mend()
    responses = [answer.result() for answer in answers]
    good = sum(answer.status_code == 200 for answer in responses)
    refused = sum(answer.status_code == 503 and "retry-after" in answer.headers for answer in responses)
    late = (max(live) > LIVE_WITHIN) + (max(rows) > ROWS_WITHIN)
    note = f"on {stack.server}; {busy} threads busy; slowest /livez {max(live):.3f} s, rows {max(rows):.3f} s; "
    note += f"{connections} database connections held; {good} read, {refused} refused with Retry-After"
    return Outcome(
        f"the store takes {seconds:.0f} s for each of {len(asks)} reads",
        f"/livez within {LIVE_WITHIN} s, rows within {ROWS_WITHIN:.0f} s, 0 database connections held",
        len(asks) + 1,
        good + refused + (connections == 0 and busy == STORE.threads),
        len(asks) - good - refused,
        time.monotonic() - started,
        note,
        late,
    )


def _seconds(action: Callable[[], object]) -> float:
    started = time.monotonic()
    action()
    return time.monotonic() - started


def _validate(stack: StackOnS3, caller: Caller, domain: str) -> float:
    """Returns the seconds from the upload to the end of its validation."""
    started = time.monotonic()
    id = str(upload(caller, domain)["id"])
    until(lambda: _done(stack, "datasets", id))
    return time.monotonic() - started


def _draw(stack: StackOnS3, caller: Caller, domain: str) -> float:
    started = time.monotonic()
    body = {"class_id": 0, "steps": STEPS, "adapter_id": "base"}
    id = str(caller.post(f"/v1/domains/{domain}/generations", body)["id"])
    until(lambda: _done(stack, "generations", id))
    return time.monotonic() - started


def _done(stack: StackOnS3, table: str, id: str) -> bool:
    return _row_status(stack, table, id) in {"succeeded", "failed", "cancelled", "ready", "rejected"}


def _row_status(stack: StackOnS3, table: str, id: str) -> str:
    return str(stack.rows(f"SELECT status FROM {table} WHERE id = %s", id)[0]["status"])
