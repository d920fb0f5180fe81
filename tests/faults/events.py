"""Event streams that are cut repeatedly."""

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

MAX_BYTES = 1500
"""Maximum bytes of a response, headers included, before the connection breaks: a few events, or none."""


def streams_are_cut(stack: Stack, listeners: int, steps: int) -> Outcome:
    """Clients follow a fine-tune from its first event to its last, over connections that break after a random number of
    bytes. Each time they reconnect with the last id that they received completely.

    Held: a cut after which the listener missed nothing. Lost: a listener with a gap or a repeated event.
    """
    started, chance = time.monotonic(), stack.chance()
    caller, domain, dataset = prepared(stack)
    id = start_finetune(caller, domain, dataset, steps)
    chances = [random.Random(chance.random()) for _ in range(listeners)]
    with ThreadPoolExecutor(listeners) as pool:
        received = list(pool.map(lambda listener: _listen(stack.url, caller.key, id, listener), chances))
    until(lambda: ended(stack, "finetunes", id))
    stored = [row["id"] for row in stack.rows("SELECT id FROM finetune_events WHERE finetune_id = %s ORDER BY id", id)]
    tried = sum(cuts for _, cuts in received)
    held = sum(cuts for ids, cuts in received if ids == stored)
    lost = sum(ids != stored for ids, _ in received)
    note = f"{listeners} listeners, {len(stored)} events"
    must = "no event missing or repeated"
    return Outcome("event streams cut", must, tried, held, lost, time.monotonic() - started, note)


def _listen(url: str, key: str, id: str, chance: random.Random) -> tuple[list[int], int]:
    """Returns the ids received, and the number of broken connections."""
    stream, received, cuts = EventStream(after=0), list[int](), 0
    headers = {"Authorization": f"Bearer {key}"}
    with Proxy(urlparse(url).port or 0) as proxy, httpx.Client(headers=headers, timeout=60) as http:
        path = f"http://127.0.0.1:{proxy.port}/v1/finetunes/{id}/events"
        while not stream.ended:
            proxy.strike("reset", chance.randrange(MAX_BYTES), "down")
            try:
                with http.stream("GET", path, headers=stream.headers()) as answer:
                    if answer.status_code == 204:
                        break  # no further events
                    for sent in EventSource(answer).iter_sse():
                        event = stream.read(sent)
                        received += [event.id] if event is not None else []
            except httpx.TransportError:
                cuts += 1
    return received, cuts
