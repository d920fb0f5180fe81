"""Objects that all threads of a worker process share: settings, database, object store, leases, and the device."""

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
"""Pauses in seconds between the tries to store a result, after which storing fails."""
KERNEL_BYTES = 2**27
"""Bytes of temporary files that a worker with a GPU needs, for the kernels that it compiles."""
_MIN_GENERATIONS = 16
"""Min number of generations that run at once, so that several tenants share even a batch with few rows."""
_MAX_UNANSWERED = 5
"""Number of device checks that may time out in a row before the worker ends."""
_STOP_SECONDS = 30.0
"""Seconds that a failing worker waits for its threads before it exits, since a thread may hang in a device call."""


def _end_process() -> None:
    """Sends SIGTERM to this process, so that it stops in an orderly way, and exits after `_STOP_SECONDS` at the
    latest."""
    watchdog = threading.Timer(_STOP_SECONDS, os._exit, (1,))
    watchdog.daemon = True
    watchdog.start()
    os.kill(os.getpid(), signal.SIGTERM)


@dataclass
class Context:
    """Shared state of one worker process, created when the worker starts. `end_process` makes the process end, even if
    a thread hangs."""

    settings: Settings
    dispatcher: Dispatcher
    end_process: Callable[[], None] = _end_process
    id: str = field(default_factory=lambda: new_id("wrk"))
    stopping: threading.Event = field(default_factory=threading.Event)
    problem: str | None = None
    """Problem that prevents this worker from working, as a message; None if it is healthy."""
    outcomes: dict[str, Any] = field(default_factory=dict)
    """Results of fine-tunes that this process has trained but not yet published, by the fine-tune's id. If storing a
    result failed, the next attempt in this process publishes the result without training again."""
    _evicted_at: datetime.datetime | None = None
    _ending: threading.Lock = field(default_factory=threading.Lock)
    _ended: bool = False
    _judging: threading.Lock = field(default_factory=threading.Lock)
    """Lock for changes of `problem`, so that a later device check does not clear the problem of a worker that ends."""
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
        """The base model on the device, loaded at first access. Raises RuntimeError in a worker whose queues need no
        device."""
        if not self.needs_device:
            raise RuntimeError("this worker has no device: its queues need none")
        return Gpu(self.settings, on_death=self._on_device_lost)

    @property
    def queues(self) -> set[str]:
        return set(self.settings.worker_queues.split(","))

    @cached_property
    def serves(self) -> tuple[type[Any], ...]:
        """Database models of the jobs in this worker's queues: Dataset, Finetune or Generation."""
        return tuple(model for model, kind in KINDS.items() if kind.queue in self.queues)

    def places(self, model: type[Any]) -> int:
        """Returns how many jobs of a kind may run at once in this worker. Generations get the part of `worker_threads`
        that the other kinds leave. Without that setting, their number is the number of rows of the device's batch, but
        at least `_MIN_GENERATIONS`."""
        few = {Dataset: self.settings.concurrent_datasets, Finetune: self.settings.concurrent_finetunes}
        if model in few:
            return few[model]
        if self.settings.worker_threads is None:
            return max(_MIN_GENERATIONS, self.gpu.max_rows)
        left = self.settings.worker_threads - sum(few[other] for other in self.serves if other in few)
        return max(2, left)  # with a single thread, one tenant's backlog would block all other tenants

    @property
    def needs_device(self) -> bool:
        return not self.queues.isdisjoint(DEVICE_QUEUES)

    def start(self) -> None:
        """Checks the object store, loads the base model and registers it in the database, and starts the metrics and
        the lease thread. Raises BaseMissing, CheckpointInvalid, ScratchTooSmall, StorageUnavailable,
        DatabaseUnavailable."""
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
        """Drops adapters that were deleted in the database from host and device memory. While a job still uses one,
        this worker does not count as having evicted it: the lease thread cancels the job. Raises EngineStopped,
        DatabaseUnavailable."""
        with self.database.session() as session:
            now, gone = database_now(session), set[str]()
            if self.needs_device:
                engine = self.gpu.engine
                gone = adapters.deleted(session, engine.adapters)
        if gone:
            in_use = engine.forget(gone)
            logger.info("let go of %d adapters that were deleted, %d of them still in use", len(gone), len(in_use))
            if in_use:
                return
        self._evicted_at = now

    def report(self) -> None:
        """Writes this worker's state to the database: that it is alive, its problem if any, its device, the adapters on
        the device, and the time of the last `evict`."""
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
        """Stores an object under the storage key `key`. Retries for about 15 seconds while the object store does not
        respond.

        Raises StorageUnavailable, StorageFull.
        """
        return self._patiently(lambda: self.store.put(key, data))

    def put_checked(self, key: str, data: bytes) -> StoredObject:
        """Stores an object like `put`, reads it back, and stores it again if it is missing or damaged."""

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
        """Ends this worker because of `problem`, so that a supervisor starts a new worker. The worker claims no more
        jobs, reports the problem to the database, and requeues its jobs. The process ends even if a thread hangs."""
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

    def lose_device(self, error: BaseException) -> None:
        """Ends this worker because a thread outside of the engine got an error of a lost device. The engine's jobs fail
        with DeviceLost too, since any of them may be the cause."""
        self._on_device_lost(error)
        self.gpu.engine.fail(error)

    def _on_device_lost(self, error: BaseException) -> None:
        self.die(f"Its device or its engine failed ({error}).")

    def watch_device(self) -> None:
        """Checks that the engine and its device answer within `device_seconds`, and reports a change to the database. A
        device may recover, so the worker ends only after `_MAX_UNANSWERED` checks in a row without an answer. Raises
        EngineStopped, DatabaseUnavailable."""
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
        """Stops the engine. Unfinished jobs fail with EngineStopped and are requeued."""
        self.stopping.set()
        with self._ending:
            if "gpu" in self.__dict__ and not self._ended:
                self.gpu.engine.stop()
            self._ended = True

    def close(self) -> None:
        """Stops the lease thread, removes this worker from the database, and closes the database. Call it after the
        last attempt has been settled. A worker with a problem stays in the database, so that operators can see the
        problem until the entry is too old."""
        self.leases.stop()
        if self._end is not None:
            self._end.join()
        if self.problem is None:
            with self.database.session() as session:
                fleet.forget_worker(session, self.id)
        self.database.dispose()
