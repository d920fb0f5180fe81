"""What one worker process holds: settings, database, store, leases, and the device when its queues need one."""

import datetime
import logging
import os
import socket
import threading
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from core.adapters import service as adapters
from core.config import Settings
from core.db.base import new_id
from core.db.session import Database, database_now
from core.jobs import Dispatcher
from core.storage import ObjectStore, open_store
from core.tenancy import SYSTEM
from core.tracing import configure_traces
from core.usage import service as usage
from worker import metrics
from worker.gpu import Gpu
from worker.leases import LeaseKeeper

logger = logging.getLogger(__name__)
DEVICE_QUEUES = {"generate", "finetune"}


@dataclass
class Context:
    """Made once, when the worker starts; shared by its threads."""

    settings: Settings
    dispatcher: Dispatcher
    id: str = field(default_factory=lambda: new_id("wrk"))
    stopping: threading.Event = field(default_factory=threading.Event)
    _evicted_at: datetime.datetime | None = None

    @cached_property
    def database(self) -> Database:
        return Database(self.settings.worker_database_url, SYSTEM)

    @cached_property
    def store(self) -> ObjectStore:
        return open_store(self.settings)

    @cached_property
    def leases(self) -> LeaseKeeper:
        return LeaseKeeper(self.database, self.settings.lease_seconds, self.settings.heartbeat_seconds)

    @cached_property
    def gpu(self) -> Gpu:
        """Raises RuntimeError in a worker whose queues need no device."""
        if not self.needs_device:
            raise RuntimeError("this worker has no device: its queues need none")
        return Gpu(self.settings)

    @cached_property
    def finetune_places(self) -> threading.Semaphore:
        return threading.Semaphore(self.settings.concurrent_finetunes)

    @property
    def queues(self) -> set[str]:
        return {queue.strip() for queue in self.settings.worker_queues.split(",")}

    @property
    def needs_device(self) -> bool:
        return not self.queues.isdisjoint(DEVICE_QUEUES)

    def start(self) -> None:
        """Loads the base and tells the database about it. Raises BaseMissing, CheckpointInvalid."""
        configure_traces(self.settings, "difffit-worker", self.database.engine)
        self.store.check()
        if self.needs_device:
            gpu = self.gpu
            with self.database.session() as session:
                adapters.register_base(session, self.settings.base_model, gpu.base.description)
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
        """Tells that this worker lives, what lies in its device table, and when it last let go of what was deleted."""
        about: dict[str, Any] = {"queues": sorted(self.queues), "device": "none", "base_digest": None, "resident": []}
        about |= {"evicted_at": self._evicted_at}
        if self.needs_device:
            gpu = self.gpu
            about |= {
                "device": str(gpu.device),
                "base_digest": gpu.base.description.digest,
                "resident": gpu.bank.resident,
            }
        with self.database.session() as session:
            usage.report_worker(session, self.id, socket.gethostname(), os.getpid(), about)

    def stop(self) -> None:
        """Ends the engine: unfinished work fails with EngineStopped and its tasks hand it back."""
        self.stopping.set()
        if "gpu" in self.__dict__:
            self.gpu.stop()

    def close(self) -> None:
        """After the last task: nothing holds a row any more."""
        self.leases.stop()
        with self.database.session() as session:
            usage.forget_worker(session, self.id)
        self.database.dispose()


_current: Context | None = None


def set_context(context: Context) -> None:
    global _current  # Celery finds tasks by name, so that they cannot be handed an argument
    _current = context


def get_context() -> Context:
    if _current is None:
        raise RuntimeError("the worker has not started")
    return _current
