"""Readiness check of the API: asks the database, the object store and the broker, with a timeout and a short cache."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import structlog

from api.deps import Services
from api.schemas.usage import Readiness
from api.threads import HEALTH, run_in
from core.service import fleet
from core.service.config import QUEUES
from core.service.db.schema import is_current

logger = structlog.get_logger()
Answer = TypeVar("Answer")

NO_WORKER = "No worker is alive: jobs wait."
OTHER_BASE = "The live workers serve another base than the API's DIFFFIT_BASE_MODEL. Set the same base for both."
UNSERVED = "No live worker has these queues, whose jobs wait: {}. Add them to DIFFFIT_WORKER_QUEUES of a worker."
_WITHOUT = {
    "storage": "The object store does not respond: uploads and images fail, jobs wait.",
    "broker": "The broker does not respond: workers find their jobs in the database, with a short delay.",
}


class ReadinessCheck:
    """Checks whether the API can serve requests. Caches the result for `seconds`, so that frequent probes cost nothing.

    The API is unavailable only if the database does not respond or has another schema version, since every request
    needs the database. Other failures are warnings. The result contains no addresses or secrets; the errors are logged.
    """

    seconds = 2.0
    """Maximum age of the cached result."""

    def __init__(self, services: Services) -> None:
        self._database = Probe("database", lambda: _database(services))
        self._storage = Probe("storage", lambda: _answers(services.store.check))
        self._broker = Probe("broker", lambda: _answers(services.dispatcher.check))
        self._lock = asyncio.Lock()
        self._copy: Readiness | None = None
        self._copied_at = 0.0

    async def read(self) -> Readiness:
        async with self._lock:
            if self._copy is None or time.monotonic() - self._copied_at >= self.seconds:
                self._copy = await self._check()
                self._copied_at = time.monotonic()
            return self._copy

    async def _check(self) -> Readiness:
        answered, storage, broker = await asyncio.gather(self._database.ask(), self._storage.ask(), self._broker.ask())
        database = answered or _Database({"database": "The database does not respond."})
        answers = {"storage": storage, "broker": broker}
        warnings = {name: _WITHOUT[name] for name, answer in answers.items() if answer is None}
        return Readiness(
            status="unavailable" if database.problems else "ready",
            problems=database.problems,
            workers=database.workers,
            warnings=database.warnings | warnings,
        )


@dataclass(frozen=True)
class _Database:
    """Result of checking the database: problems by name, number of live workers, warnings by name."""

    problems: dict[str, str] = field(default_factory=dict)
    workers: int = 0
    warnings: dict[str, str] = field(default_factory=dict)


def _database(services: Services) -> _Database:
    if not is_current(services.database.engine):
        return _Database({"migrations": "The database schema is not at this version: run `python -m migrations`."})
    with services.database.reading() as session:
        workers = [worker for worker in fleet.workers(session) if worker.healthy]
        agree = fleet.all_hold(session, services.settings.base_model)
    warnings = {} if workers else {"worker": NO_WORKER}
    unserved = set(QUEUES).difference(*(worker.queues for worker in workers))
    if workers and unserved:
        warnings["queues"] = UNSERVED.format(", ".join(sorted(unserved)))
    return _Database({}, len(workers), warnings if agree else {**warnings, "base": OTHER_BASE})


def _answers(check: Callable[[], None]) -> bool:
    check()
    return True


class Probe(Generic[Answer]):
    """Check of one service, such as the object store. Concurrent callers share the running check."""

    patience = 2.0
    """Seconds after which a service that has not responded counts as unavailable."""

    def __init__(self, name: str, question: Callable[[], Answer]) -> None:
        self.name, self.question = name, question
        self._task: asyncio.Task[Answer] | None = None

    async def ask(self) -> Answer | None:
        """Runs the check in a thread and returns its result, or None if it fails or times out."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(run_in(HEALTH, self.question))
        try:
            return await asyncio.wait_for(asyncio.shield(self._task), self.patience)
        except Exception as error:  # each service raises errors of its own
            logger.warning("not ready", missing=self.name, error=f"{type(error).__name__}: {error}")
            return None
