"""Keeps the leases of everything that this process works on, and hears of cancellation."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from core import jobs
from core.db.session import Database
from core.errors import CoreError
from core.jobs import Claim
from core.tracing import caused_by

logger = logging.getLogger(__name__)
_CANCEL_SECONDS = 2.0
"""How often cancellation is looked for: a tenant should not wait for a heartbeat."""


@dataclass(frozen=True)
class _Held:
    model: type[Any]
    claim: Claim
    on_end: Callable[[], None]


class LeaseKeeper:
    """One thread for all rows of the process."""

    def __init__(self, database: Database, lease_seconds: float, heartbeat_seconds: float) -> None:
        self.database, self.lease_seconds = database, lease_seconds
        self.interval = min(heartbeat_seconds, _CANCEL_SECONDS)
        self._held: dict[Claim, _Held] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def held(self) -> frozenset[Claim]:
        """What this process works on."""
        with self._lock:
            return frozenset(self._held)

    @contextmanager
    def hold(self, model: type[Any], claim: Claim, on_end: Callable[[], None]) -> Iterator[None]:
        """Keeps the lease of a claim, of which logs and traces tell. `on_end` is called when the row is cancelled or
        lost; it may be called again."""
        with self._lock:
            self._held[claim] = _Held(model, claim, on_end)
        about = {"job_id": claim.id, "attempt": claim.attempt}
        try:
            with caused_by(claim.request_id, claim.traceparent, jobs.KINDS[model].task, **about):
                yield
        finally:
            with self._lock:
                self._held.pop(claim, None)

    def _run(self) -> None:
        while not self._stop.wait(self.interval):
            with self._lock:
                held = list(self._held.values())
            for one in held:
                try:
                    with self.database.session() as session:
                        state = jobs.heartbeat(session, one.model, one.claim, self.lease_seconds)
                except CoreError as error:  # the lease lasts for several missed beats
                    logger.warning("heartbeat of %s failed: %s", one.claim.id, error.detail)
                    continue
                if state != "alive":
                    logger.info("%s: %s", one.claim.id, state)
                    one.on_end()
