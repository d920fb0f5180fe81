"""One worker process's settings, database, store, leases, and its device when its queues need one."""

import datetime
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from core.artifact.errors import ChecksumMismatch, CoreError, NotFound
from core.service import adapters, fleet
from core.service.config import Settings
from core.service.db.base import new_id
from core.service.db.models import Dataset, Finetune
from core.service.db.session import Database, database_now
from core.service.jobs import KINDS, Dispatcher
from core.service.storage import ObjectStore, StoredObject, open_store
from core.service.storage.errors import StorageFull, StorageUnavailable
from core.service.storage.objects import unusable
from core.service.storage.scratch import check_scratch
from core.service.tenancy import SYSTEM
from core.service.tracing import configure_traces
from worker import metrics
from worker.gpu import Gpu
from worker.leases import LeaseKeeper

logger = logging.getLogger(__name__)
DEVICE_QUEUES = {"generate", "finetune"}
_STORE_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds between an attempt's tries to store its result."""
KERNEL_BYTES = 2**27
"""Room for the kernels that a GPU's worker compiles. Nothing else of a worker needs temporary files."""
_MIN_GENERATIONS = 16
"""Places for generations: a batch is shared by several tenants, also where it has few rows."""
_MAX_UNANSWERED = 5
"""Checks that a device may leave unanswered in a row."""
_STOP_SECONDS = 30.0
"""Seconds that a failing worker waits for its threads, since one may hang in a dead device."""


def _end_process() -> None:
    """Asks this process to stop in good order, and makes sure that it does."""
    watchdog = threading.Timer(_STOP_SECONDS, os._exit, (1,))
    watchdog.daemon = True
    watchdog.start()
    os.kill(os.getpid(), signal.SIGTERM)


@dataclass
class Context:
    """Made once, when the worker starts; shared by its threads. `end_process` ends it for certain."""

    settings: Settings
    dispatcher: Dispatcher
    end_process: Callable[[], None] = _end_process
    id: str = field(default_factory=lambda: new_id("wrk"))
    stopping: threading.Event = field(default_factory=threading.Event)
    problem: str | None = None
    """Why this worker cannot work, if it cannot."""
    outcomes: dict[str, Any] = field(default_factory=dict)
    """Results of fine-tunes that ran here, by id: another attempt here publishes them without training again."""
    _evicted_at: datetime.datetime | None = None
    _ending: threading.Lock = field(default_factory=threading.Lock)
    _ended: bool = False
    _judging: threading.Lock = field(default_factory=threading.Lock)
    """Held to change `problem`: that of a worker which ends is not taken back."""
    _unanswered: int = 0
    _end: threading.Thread | None = None

    @cached_property
    def database(self) -> Database:
        return Database(self.settings.worker_database_url, SYSTEM)

    @cached_property
    def store(self) -> ObjectStore:
        return open_store(self.settings)

    @cached_property
    def leases(self) -> LeaseKeeper:
        return LeaseKeeper(self.database, self.settings.lease_seconds, self.settings.heartbeat_seconds, self.die)

    @cached_property
    def gpu(self) -> Gpu:
        """Raises RuntimeError in a worker whose queues need no device."""
        if not self.needs_device:
            raise RuntimeError("this worker has no device: its queues need none")
        return Gpu(self.settings, on_death=self._on_device_lost)

    @property
    def queues(self) -> set[str]:
        return {queue.strip() for queue in self.settings.worker_queues.split(",")}

    @cached_property
    def serves(self) -> tuple[type[Any], ...]:
        """The kinds of jobs of its queues."""
        return tuple(model for model, kind in KINDS.items() if kind.queue in self.queues)

    def places(self, model: type[Any]) -> int:
        """Returns how many jobs of a kind run at once. Generations wait for the device together: they get what the
        others leave of `worker_threads`, or without that setting enough to fill the device's batch while as many load
        their adapters or store their images."""
        few = {Dataset: self.settings.concurrent_datasets, Finetune: self.settings.concurrent_finetunes}
        if model in few:
            return few[model]
        if self.settings.worker_threads is None:
            return max(_MIN_GENERATIONS, self.gpu.max_rows)
        left = self.settings.worker_threads - sum(few[other] for other in self.serves if other in few)
        return max(2, left)  # with a single place one tenant's backlog would hold up all others

    @property
    def needs_device(self) -> bool:
        return not self.queues.isdisjoint(DEVICE_QUEUES)

    def start(self) -> None:
        """Loads the base and tells the database about it. Raises BaseMissing, CheckpointInvalid, ScratchTooSmall."""
        configure_traces(self.settings, "difffit-worker", self.database.engine)
        self.store.check()
        if self.needs_device:
            gpu = self.gpu
            if gpu.device.type == "cuda":
                check_scratch("DIFFFIT_DEVICE", KERNEL_BYTES)
            with self.database.session() as session:
                fleet.register_base(session, self.settings.base_model, gpu.base.description)
        if self.settings.metrics_port:
            metrics.serve(self.settings, self.gpu.engine if self.needs_device else None)
            metrics.show_jobs(self.database)
        self.leases.start()
        self.report()

    def evict(self) -> None:
        """Lets go of the adapters that were deleted. Raises EngineStopped, DatabaseUnavailable."""
        with self.database.session() as session:
            now, gone = database_now(session), set[str]()
            if self.needs_device:
                engine = self.gpu.engine
                gone = adapters.deleted(session, {*engine.cache.resident, *engine.bank.resident})
        if gone:
            engine.forget(gone)
            logger.info("let go of %d adapters that were deleted", len(gone))
        self._evicted_at = now

    def report(self) -> None:
        """Reports that this worker is alive, the adapters in its device table, and its last eviction of deleted
        ones."""
        state: dict[str, Any] = {"queues": sorted(self.queues), "device": "none", "base_digest": None, "resident": []}
        state |= {"evicted_at": self._evicted_at, "healthy": self.problem is None, "problem": self.problem}
        if self.needs_device:
            gpu = self.gpu
            state |= {
                "device": str(gpu.device),
                "base_digest": gpu.base.description.digest,
                "resident": gpu.bank.resident,
            }
        with self.database.session() as session:
            fleet.report_worker(session, self.id, socket.gethostname(), os.getpid(), state)

    def put(self, key: str, data: bytes) -> StoredObject:
        """Stores an attempt's result. Retries for some seconds while the store does not respond.

        Raises StorageUnavailable, StorageFull.
        """
        return self._patiently(lambda: self.store.put(key, data))

    def put_checked(self, key: str, data: bytes) -> StoredObject:
        """Stores like `put`, reads the object back, and stores it again when it is missing or damaged."""

        def put() -> StoredObject:
            stored = self.store.put(key, data)
            try:
                self.store.get(key, stored.sha256)
            except (NotFound, ChecksumMismatch) as error:
                raise unusable("it does not return what was written") from error
            return stored

        return self._patiently(put)

    def _patiently(self, put: Callable[[], StoredObject]) -> StoredObject:
        for seconds in _STORE_PAUSES:
            try:
                return put()
            except StorageFull:
                raise
            except StorageUnavailable:
                if self.stopping.wait(seconds):
                    raise
        return put()

    def die(self, problem: str) -> None:
        """Ends a worker that cannot continue, so that a supervisor starts another. It claims nothing more, reports the
        problem and requeues its jobs. It ends even if a thread hangs."""
        with self._judging:
            is_stopping = self.stopping.is_set()
            if not is_stopping or self.problem is None:
                self.problem = problem
            self.stopping.set()
        if is_stopping:
            return
        logger.error("this worker ends: %s", problem)
        self._end = threading.Thread(target=self._report_and_end, name="end", daemon=True)
        self._end.start()

    def _on_device_lost(self, error: BaseException) -> None:
        self.die(f"Its device or its engine failed ({error}).")

    def watch_device(self) -> None:
        """Reports a device, or an engine's loop, that does not answer within `device_seconds`. It may come back: the
        worker ends after `_MAX_UNANSWERED` checks in a row. Raises EngineStopped, DatabaseUnavailable."""
        if not self.needs_device:
            return
        seconds = self.settings.device_seconds
        try:
            self.gpu.engine.check(seconds)
        except TimeoutError:
            self._unanswered += 1
            problem: str | None = f"Its device did not answer within {seconds:.0f} s."
        else:
            self._unanswered, problem = 0, None
        if self._unanswered >= _MAX_UNANSWERED:
            self.die(f"Its device did not answer {_MAX_UNANSWERED} times in a row, {seconds:.0f} s each.")
            return
        with self._judging:
            is_news = not self.stopping.is_set() and self.problem != problem
            if is_news:
                self.problem = problem
        if is_news:
            self.report()

    def _report_and_end(self) -> None:
        self.end_process()
        try:
            self.report()
        except CoreError as error:
            logger.warning("the problem was not reported: %s", error.detail)

    def stop(self) -> None:
        """Ends the engine: unfinished work fails with EngineStopped and is requeued."""
        self.stopping.set()
        with self._ending:
            if "gpu" in self.__dict__ and not self._ended:
                self.gpu.engine.stop()
            self._ended = True

    def close(self) -> None:
        """After the last attempt: nothing holds a row any more. Waits for the report of a problem, which stays until it
        is old."""
        self.leases.stop()
        if self._end is not None:
            self._end.join()
        if self.problem is None:
            with self.database.session() as session:
                fleet.forget_worker(session, self.id)
        self.database.dispose()
