"""Streams of events that are cut, again and again."""

import random
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlparse

import httpx
from httpx_sse import EventSource

from difffit.events import EventStream
from tests.faults.proxy import Proxy
from tests.faults.stack import Outcome, Stack, until
from tests.faults.workers import ended, prepared, start_finetune

LONGEST = 1500
"""Bytes of an answer that pass before the wire breaks, with its headers: some events, or not even one."""


def streams_are_cut(stack: Stack, listeners: int, steps: int) -> Outcome:
    """Clients hear a fine-tune from its first event to its last, over wires that break after a random number of bytes;
    each time they connect again with the last id that came whole.

    Held: a cut that cost its listener nothing; lost: a listener with a gap or with something twice.
    """
    started, chance = time.monotonic(), stack.chance()
    caller, domain, dataset = prepared(stack)
    id = start_finetune(caller, domain, dataset, steps)
    chances = [random.Random(chance.random()) for _ in range(listeners)]
    with ThreadPoolExecutor(listeners) as pool:
        heard = list(pool.map(lambda one: _listen(stack.url, caller.key, id, one), chances))
    until(lambda: ended(stack, "finetunes", id))
    told = [row["id"] for row in stack.rows("SELECT id FROM finetune_events WHERE finetune_id = %s ORDER BY id", id)]
    tried = sum(cuts for _, cuts in heard)
    held = sum(cuts for ids, cuts in heard if ids == told)
    lost = sum(ids != told for ids, _ in heard)
    note = f"{listeners} listeners, {len(told)} events"
    return Outcome("streams of events cut", "no gap, no double", tried, held, lost, time.monotonic() - started, note)


def _listen(url: str, key: str, id: str, chance: random.Random) -> tuple[list[int], int]:
    """The ids that came, and how often the wire broke."""
    stream, heard, cuts = EventStream(after=0), list[int](), 0
    headers = {"Authorization": f"Bearer {key}"}
    with Proxy(urlparse(url).port or 0) as proxy, httpx.Client(headers=headers, timeout=60) as http:
        path = f"http://127.0.0.1:{proxy.port}/v1/finetunes/{id}/events"
        while not stream.ended:
            proxy.strike("reset", chance.randrange(LONGEST), "down")
            try:
                with http.stream("GET", path, headers=stream.headers()) as answer:
                    if answer.status_code == 204:
                        break  # nothing comes any more
                    for sent in EventSource(answer).iter_sse():
                        event = stream.read(sent)
                        heard += [event.id] if event is not None else []
            except httpx.TransportError:
                cuts += 1
    return heard, cuts
