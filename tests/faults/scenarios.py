"""Every fault with the service that it strikes, and how often: in full, and in short for the tests."""

import tempfile
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import urlparse

from core.storage import S3Store
from tests import services
from tests.faults import broker, clients, database, storage, workers
from tests.faults.proxy import Fault, Proxy
from tests.faults.stack import Outcome, Stack

SWEPT_SOON = {"DIFFFIT_ORPHAN_SECONDS": "5"}
BREAKS: list[tuple[Fault, int]] = [
    ("refused", 0),
    ("reset", 0),
    ("reset", 3 * 2**20),
    ("reset", 11 * 2**20),
    ("frozen", 3 * 2**20),
]


@dataclass(frozen=True)
class Scenario:
    full: Callable[[Stack], Outcome]
    short: Callable[[Stack], Outcome]
    workers: int = 1
    settings: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class OnS3:
    """Its store is an S3 server behind a wire that can break."""

    full: Callable[[Stack, Proxy, S3Store], Outcome]
    short: Callable[[Stack, Proxy, S3Store], Outcome]


SCENARIOS: dict[str, Scenario | OnS3] = {
    "kills": Scenario(partial(workers.kills, points=60), partial(workers.kills, points=2), workers=2),
    "pauses": Scenario(
        partial(workers.pauses, times=5), partial(workers.pauses, times=1), workers=2, settings=SWEPT_SOON
    ),
    "redis-away": Scenario(
        partial(broker.redis_away, jobs=10, seconds=60), partial(broker.redis_away, jobs=2, seconds=3)
    ),
    "redis-emptied": Scenario(partial(broker.redis_emptied, jobs=20), partial(broker.redis_emptied, jobs=3)),
    "message": Scenario(
        partial(broker.one_message_often, messages=100), partial(broker.one_message_often, messages=20)
    ),
    "postgres": Scenario(
        partial(database.postgres_restarts, restarts=5), partial(database.postgres_restarts, restarts=1), workers=0
    ),
    "uploads": OnS3(
        lambda stack, proxy, store: storage.uploads_break(stack, proxy, store, BREAKS),
        lambda stack, proxy, store: storage.uploads_break(stack, proxy, store, BREAKS[2:3]),
    ),
    "images": OnS3(
        lambda stack, proxy, _: storage.images_wait(stack, proxy, 20),
        lambda stack, proxy, _: storage.images_wait(stack, proxy, 8),
    ),
    "flipped-byte": Scenario(partial(storage.flipped_byte, times=5), partial(storage.flipped_byte, times=1)),
    "idempotency": Scenario(
        partial(clients.one_key_at_once, posts=50), partial(clients.one_key_at_once, posts=10), workers=0
    ),
    "streams": Scenario(partial(clients.idle_streams, streams=300), partial(clients.idle_streams, streams=20)),
}


def run(name: str, postgres: services.Postgres, *, quick: bool) -> Outcome:
    """On a service of its own."""
    scenario = SCENARIOS[name]
    with ExitStack() as exits:
        folder = Path(exits.enter_context(tempfile.TemporaryDirectory()))
        if isinstance(scenario, Scenario):
            stack = Stack(folder, postgres, workers=scenario.workers, settings=scenario.settings)
            return (scenario.short if quick else scenario.full)(exits.enter_context(stack))
        endpoint = exits.enter_context(services.s3())
        proxy = exits.enter_context(Proxy(urlparse(endpoint).port or 0))
        store = S3Store(f"faults-{uuid.uuid4().hex}", "prefix", endpoint, "us-east-1")
        store.create_bucket()
        settings = {
            **SWEPT_SOON,
            "DIFFFIT_STORAGE_URL": f"s3://{store.bucket}/prefix",
            "DIFFFIT_S3_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }
        stack = exits.enter_context(Stack(folder, postgres, settings=settings))
        return (scenario.short if quick else scenario.full)(stack, proxy, store)
