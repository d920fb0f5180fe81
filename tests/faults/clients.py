"""Faults by clients: repeated requests, and many clients that only listen."""

import asyncio
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import httpx

from tests.faults.stack import Outcome, Stack, until
from tests.faults.workers import alive, prepared, start_finetune


def one_key_at_once(stack: Stack, posts: int) -> Outcome:
    """Sends parallel posts with one idempotency key."""
    started = time.monotonic()
    caller = stack.tenant()
    headers = {"Idempotency-Key": str(uuid.uuid4())}

    def post(_: int) -> httpx.Response:
        return caller.send("POST", "/v1/domains", json={"name": "Fruit"}, headers=headers)

    with ThreadPoolExecutor(posts) as pool:
        answers = list(pool.map(post, range(posts)))
    held = sum(answer.status_code in {201, 409} for answer in answers)
    ids = {answer.json()["id"] for answer in answers if answer.status_code == 201}
    rows = len(caller.get("/v1/domains")["data"])
    lost = 0 if len(ids) == rows == 1 else 1
    return Outcome(
        f"{posts} parallel posts with one idempotency key",
        "one resource",
        posts,
        held,
        lost,
        time.monotonic() - started,
    )


def idle_streams(stack: Stack, streams: int) -> Outcome:
    """Opens streams of a waiting fine-tune for many clients; none may hold a connection to the database."""
    started = time.monotonic()
    caller, domain, dataset = prepared(stack)
    for pid in list(stack.workers):
        stack.kill_worker(pid)
    id = start_finetune(caller, domain, dataset)
    listening, connections, ends = asyncio.run(_listen(stack, caller.key, id, streams))
    stack.add_worker()
    until(lambda: alive(stack))
    held = 0 if connections else listening
    note = f"{connections} database connections with {listening} streams; {ends} received the end"
    must = "they hold 0 database connections, and receive the end"
    lost = streams - ends
    return Outcome(f"{streams} idle streams", must, streams, held, lost, time.monotonic() - started, note)


async def _listen(stack: Stack, key: str, id: str, streams: int) -> tuple[int, int, int]:
    """Returns three counts: streams open at once, database connections held then, and streams that reported the end."""
    opened, ends = 0, 0
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=stack.url, timeout=120, limits=limits) as http:

        async def listen() -> None:
            nonlocal opened, ends
            headers = {"Authorization": f"Bearer {key}"}
            async with http.stream("GET", f"/v1/finetunes/{id}/events", headers=headers) as answer:
                answer.raise_for_status()
                counted = False
                async for line in answer.aiter_lines():
                    if not counted and line.startswith("data:"):
                        opened, counted = opened + 1, True
                    ends += '"cancelled"' in line

        async with asyncio.TaskGroup() as group:  # a rejected stream ends all
            for _ in range(streams):
                group.create_task(listen())
            while opened < streams:
                await asyncio.sleep(0.1)
            await asyncio.sleep(3)  # connections opened for the first events return to the pool
            listening, connections = opened, await asyncio.to_thread(held_connections, stack)
            await asyncio.to_thread(lambda: httpx.post(f"{stack.url}/v1/finetunes/{id}/cancel", headers=_key(key)))
    return listening, connections, ends


def _key(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def held_connections(stack: Stack) -> int:
    """Returns the minimum number of busy connections in the service's database over 20 samples in two seconds. Short
    queries are in only a few samples and do not count."""
    query = (
        "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = %s AND usename <> 'postgres' AND state <> 'idle'"
    )
    samples = []
    for _ in range(20):
        samples.append(int(stack.rows(query, stack.name)[0]["n"]))
        time.sleep(0.1)
    return min(samples)
