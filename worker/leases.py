"""Renews the leases of all database rows that this process works on, and notices when a row was cancelled or lost."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from core.artifact.errors import CoreError
from core.service import jobs
from core.service.db.session import Database
from core.service.jobs import Claim
from core.service.tracing import caused_by

logger = logging.getLogger(__name__)
_CANCEL_SECONDS = 2.0
"""Max seconds between two checks for cancellations, so that a cancellation does not wait for the next heartbeat."""


@dataclass(frozen=True)
class _Held:
    model: type[Any]
    claim: Claim
    on_end: Callable[[], None]


class LeaseKeeper:
    """Thread that renews the leases of all rows of this process. `on_death` is called with a message if the thread ends
    unexpectedly, since the leases then expire and other workers take over the rows."""

    def __init__(
        self,
        database: Database,
        lease_seconds: float,
        heartbeat_seconds: float,
        on_death: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.database, self.lease_seconds, self.on_death = database, lease_seconds, on_death
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
        """Returns the claims of all jobs that this process works on."""
        with self._lock:
            return frozenset(self._held)

    @contextmanager
    def hold(self, model: type[Any], claim: Claim, on_end: Callable[[], None]) -> Iterator[None]:
        """Context manager that renews the lease of the claimed row while its body runs, and adds the job's id to logs
        and traces. `on_end` is called, possibly several times, if the row is cancelled or its claim is lost."""
        with self._lock:
            self._held[claim] = _Held(model, claim, on_end)
        context = {"job_id": claim.id, "attempt": claim.attempt}
        try:
            with caused_by(claim.request_id, claim.traceparent, jobs.KINDS[model].task, **context):
                yield
        finally:
            with self._lock:
                self._held.pop(claim, None)

    def _run(self) -> None:
        try:
            while not self._stop.wait(self.interval):
                self._beat_all()
        finally:
            if not self._stop.is_set():
                self.on_death("The thread that renews the leases ended.")

    def _beat_all(self) -> None:
        """Renews all leases. This is not part of the loop, since its variables would keep jobs that have ended, and
        their images, in memory while the thread waits."""
        with self._lock:
            held = list(self._held.values())
        for row in held:
            self._beat(row)

    def _beat(self, row: _Held) -> None:
        try:
            with self.database.session() as session:
                state = jobs.heartbeat(session, row.model, row.claim, self.lease_seconds)
            if state != "alive":
                logger.info("%s: %s", row.claim.id, state)
                row.on_end()
        except CoreError as error:  # the lease outlasts several missed heartbeats
            logger.warning("heartbeat of %s failed: %s", row.claim.id, error.detail)
        except Exception:  # an error with one row must not cost the other rows their leases
            logger.exception("heartbeat of %s failed", row.claim.id)
