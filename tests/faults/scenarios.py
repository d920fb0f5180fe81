"""Every fault with its service, in a full form and a short form for the tests."""

import os
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args
from unittest.mock import patch
from urllib.parse import urlparse

from core.service.config import Settings
from core.service.storage import S3Store
from tests import radosgw, services
from tests.faults import (
    adapters,
    blame,
    broker,
    clients,
    cuts,
    database,
    disk,
    endings,
    events,
    fuzz,
    hostile_input,
    scratch,
    slow,
    storage,
    strangers,
    tenants,
    upgrades,
    workers,
)
from tests.faults.disk import Disk, LimitedWorkers, small_disk
from tests.faults.proxy import Fault, Proxy
from tests.faults.stack import Outcome, Stack
from tests.faults.storage import StackOnS3
from tests.faults.supervised import SupervisedStack

Service = Literal[
    "one worker", "many streams", "two workers", "default leases", "supervised", "on S3", "small disk", "small scratch"
]
MANY_STREAMS = dict.fromkeys(
    ("DIFFFIT_MAX_EVENT_STREAMS", "DIFFFIT_MAX_TENANT_EVENT_STREAMS", "DIFFFIT_MAX_ADDRESS_CONNECTIONS"), "500"
)
SWEPT_SOON = {"DIFFFIT_ORPHAN_SECONDS": "5"}
DEFAULTS = {
    f"DIFFFIT_{name.upper()}": str(Settings.model_fields[name].default)
    for name in ("lease_seconds", "heartbeat_seconds", "reaper_seconds")
}
BREAKS: list[tuple[Fault, int]] = [
    ("refused", 0),
    ("reset", 0),
    ("reset", 3 * 2**20),
    ("reset", 11 * 2**20),
    ("frozen", 3 * 2**20),
]


@dataclass(frozen=True)
class Scenario:
    service: Service
    full: Callable[[Any], Outcome]
    short: Callable[[Any], Outcome] | None
    """None if it would take long, and another scenario or other tests cover the same."""


class StackOnSmallDisk(Stack):
    """Service whose store is a folder that can be filled up."""

    disk: Disk


SCENARIOS = {
    "kills": Scenario("two workers", partial(workers.kills, points=60, spare=2), partial(workers.kills, points=1)),
    "pauses": Scenario("two workers", partial(workers.pauses, times=5), partial(workers.pauses, times=1)),
    "default-leases": Scenario("default leases", partial(workers.kills, points=6), None),
    "cancel": Scenario("two workers", partial(endings.cancels, times=12), partial(endings.cancels, times=2)),
    "stops": Scenario("two workers", partial(endings.stops, times=10), partial(endings.stops, times=1)),
    "redis-away": Scenario(
        "one worker", partial(broker.redis_away, jobs=10, seconds=60), partial(broker.redis_away, jobs=2, seconds=3)
    ),
    "redis-emptied": Scenario(
        "one worker", partial(broker.redis_emptied, jobs=20), partial(broker.redis_emptied, jobs=3)
    ),
    "message": Scenario(
        "one worker", partial(broker.repeated_message, messages=100), partial(broker.repeated_message, messages=20)
    ),
    "postgres": Scenario(
        "one worker",
        partial(database.postgres_restarts, restarts=5),
        partial(database.postgres_restarts, restarts=1),
    ),
    "flipped-byte": Scenario(
        "one worker", partial(storage.flipped_byte, times=5), partial(storage.flipped_byte, times=1)
    ),
    "upgrade": Scenario("one worker", partial(upgrades.upgrade, times=6), None),
    "idempotency": Scenario(
        "one worker", partial(clients.one_key_at_once, posts=50), partial(clients.one_key_at_once, posts=10)
    ),
    "tenants": Scenario("one worker", tenants.tenants_pry, tenants.tenants_pry),
    "cut-streams": Scenario(
        "one worker",
        partial(events.streams_are_cut, listeners=10, steps=300),
        partial(events.streams_are_cut, listeners=2, steps=30),
    ),
    "streams": Scenario("many streams", partial(clients.idle_streams, streams=300), None),
    "fuzz": Scenario(
        "one worker",
        partial(fuzz.document_holds, examples=20, phases="examples,coverage,fuzzing,stateful"),
        None,
    ),
    "fuzz-files": Scenario("one worker", partial(fuzz.files_hold, mutants=20_000), None),
    "hostile-zips": Scenario("one worker", partial(hostile_input.zips, every=1), partial(hostile_input.zips, every=6)),
    "hostile-images": Scenario(
        "one worker", partial(hostile_input.images, every=1), partial(hostile_input.images, every=6)
    ),
    "hostile-adapters": Scenario(
        "one worker", partial(hostile_input.adapters, every=1), partial(hostile_input.adapters, every=3)
    ),
    "strangers": Scenario("one worker", partial(strangers.strangers_attack, connections=200), None),
    "many-uploads": Scenario(
        "one worker",
        partial(strangers.many_upload, uploads=100, size=8 * 2**20),
        partial(strangers.many_upload, uploads=20, size=2**20),
    ),
    "slots": Scenario(
        "one worker", partial(adapters.pass_slots, adapters=3000), partial(adapters.pass_slots, adapters=100)
    ),
    "device": Scenario(
        "supervised",
        partial(blame.device_dies, generations=50, finetunes=3),
        partial(blame.device_dies, generations=2, finetunes=1),
    ),
    "device-killer": Scenario(
        "supervised",
        partial(blame.job_kills_device, neighbours=8, steps=100),
        partial(blame.job_kills_device, neighbours=1, steps=10),
    ),
    "poison": Scenario(
        "supervised",
        partial(blame.job_kills_workers, neighbours=8, steps=100, times=3),
        None,
    ),
    "uploads": Scenario(
        "on S3",
        lambda stack: storage.uploads_break(stack, BREAKS),
        lambda stack: storage.uploads_break(stack, BREAKS[2:3]),
    ),
    "images": Scenario(
        "on S3",
        lambda stack: storage.images_wait(stack, 20),
        lambda stack: storage.images_wait(stack, 8),
    ),
    "neighbours": Scenario(
        "on S3",
        partial(slow.tenants_are_slow, generations=200, datasets=20, seconds=3, times=5),
        partial(slow.tenants_are_slow, generations=10, datasets=4, seconds=1, times=1),
    ),
    "slow-store": Scenario(
        "on S3",
        partial(slow.store_is_slow, reads=48, seconds=12),
        partial(slow.store_is_slow, reads=20, seconds=4),
    ),
    "cuts": Scenario("on S3", partial(cuts.downloads_cut, times=50), partial(cuts.downloads_cut, times=1)),
    "scratch": Scenario(
        "small scratch", partial(scratch.scratch_full, times=5), partial(scratch.scratch_full, times=1)
    ),
    "disk": Scenario(
        "small disk",
        lambda stack: disk.disk_full(stack, stack.disk, times=5, in_full=True),
        lambda stack: disk.disk_full(stack, stack.disk, times=1, in_full=False),
    ),
}


def run(
    names: Iterable[str], postgres: services.Postgres, *, quick: bool, seed: int = 0
) -> Iterator[tuple[str, Outcome]]:
    """Runs the named scenarios, each group of them on one service. `seed` determines the random moments."""
    for service in get_args(Service):
        strikes = {
            name: SCENARIOS[name].short if quick else SCENARIOS[name].full
            for name in names
            if SCENARIOS[name].service == service
        }
        here = {name: strike for name, strike in strikes.items() if strike is not None}
        if not here:
            continue
        with serving(service, postgres, quick=quick) as stack:
            stack.seed = seed
            for name, strike in here.items():
                yield name, strike(stack)


@contextmanager
def serving(service: Service, postgres: services.Postgres, *, quick: bool) -> Iterator[Stack]:
    with ExitStack() as exits:
        folder = Path(exits.enter_context(tempfile.TemporaryDirectory()))
        if service == "one worker":
            yield exits.enter_context(Stack(folder, postgres))
        elif service == "many streams":
            yield exits.enter_context(Stack(folder, postgres, settings=MANY_STREAMS))
        elif service == "two workers":
            yield exits.enter_context(Stack(folder, postgres, workers=2, settings=SWEPT_SOON))
        elif service == "default leases":
            yield exits.enter_context(Stack(folder, postgres, workers=2, settings=DEFAULTS))
        elif service == "supervised":
            yield exits.enter_context(SupervisedStack(folder, postgres))
        elif service == "on S3":
            yield _on_s3(exits, folder, postgres, ceph=radosgw.installed() and not quick)
        elif service == "small disk":
            yield _on_small_disk(exits, folder, postgres)
        else:
            yield _on_small_scratch(exits, folder, postgres)


def _on_s3(exits: ExitStack, folder: Path, postgres: services.Postgres, *, ceph: bool) -> StackOnS3:
    gateway = radosgw.Gateway("", "test", "test")
    if ceph:
        home = Path(exits.enter_context(tempfile.TemporaryDirectory()))
        gateway = exits.enter_context(radosgw.radosgw(home))
    endpoint = gateway.endpoint or exits.enter_context(services.s3())
    keys = {"AWS_ACCESS_KEY_ID": gateway.access_key, "AWS_SECRET_ACCESS_KEY": gateway.secret_key}
    exits.enter_context(patch.dict(os.environ, keys))
    proxy = exits.enter_context(Proxy(urlparse(endpoint).port or 0))
    store = S3Store(f"faults-{uuid.uuid4().hex}", "prefix", endpoint, "us-east-1")
    store.create_bucket()
    settings = {
        # Longer than an upload takes on a busy machine, so that no unfinished upload is swept.
        "DIFFFIT_ORPHAN_SECONDS": "30",
        "DIFFFIT_STORAGE_URL": f"s3://{store.bucket}/prefix",
        "DIFFFIT_S3_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}",
    }
    stack = StackOnS3(folder, postgres, settings=settings)
    stack.proxy, stack.store, stack.server = proxy, store, "Ceph" if ceph else "moto"
    return exits.enter_context(stack)


def _on_small_disk(exits: ExitStack, folder: Path, postgres: services.Postgres) -> StackOnSmallDisk:
    mounted = exits.enter_context(small_disk(folder / "objects"))
    stack = StackOnSmallDisk(folder, postgres, settings={"DIFFFIT_STORAGE_URL": f"file://{folder / 'objects'}"})
    stack.disk = mounted or LimitedWorkers(stack)
    return exits.enter_context(stack)


def _on_small_scratch(exits: ExitStack, folder: Path, postgres: services.Postgres) -> scratch.StackOnSmallScratch:
    mounted = exits.enter_context(small_disk(folder / "scratch"))
    spooled = {"DIFFFIT_MAX_SPOOLED_BYTES": str(56 * 2**20), "DIFFFIT_MAX_UPLOAD_BYTES": str(24 * 2**20)}
    stack = scratch.StackOnSmallScratch(folder, postgres, settings=spooled)
    stack.environment["TMPDIR"] = str(folder / "scratch")
    stack.scratch = mounted
    return exits.enter_context(stack)
