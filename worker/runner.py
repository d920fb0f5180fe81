"""Runs jobs: claims database rows, makes an attempt at each, and settles the attempt. No other module does this.

Every queue has its own threads, so that queues do not delay each other. A wake-up makes one idle thread look for a row.
A thread that claims a row wakes the next thread, until no rows are left.
"""

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Generic, Literal, TypeVar

from sqlalchemy.orm import Session

from core.artifact.errors import CoreError, DeviceLost, EngineStopped
from core.ml.model.device import is_lost
from core.service import jobs
from core.service.db.models import Dataset, Finetune, Generation
from core.service.db.session import database_now
from core.service.errors import DatabaseUnavailable, ResultRefused
from core.service.jobs import KINDS, Claim, Settled
from worker.context import Context

logger = logging.getLogger(__name__)
Job = TypeVar("Job", Dataset, Finetune, Generation)
Result = TypeVar("Result")
_DATABASE_SECONDS = 1.0
"""Seconds between two tries of a transaction while the database does not answer."""
_MAX_REFUSALS = 10
"""Number of times that a transaction may fail while the database answers other queries, before the attempt fails. The
database may lack something, such as disk space, temporarily or for good."""


class Attempt(ABC, Generic[Job]):
    """One attempt at one job. Each queue has its own subclass. The runner calls the methods in the order in which they
    are defined here, on one thread; only `stop` is called on another thread, at any time."""

    def __init__(self, context: Context, claim: Claim) -> None:
        self.context, self.claim = context, claim

    @abstractmethod
    def load(self, session: Session, row: Job) -> None:
        """Copies plain values from the database row, so that `work` needs no database session."""

    @abstractmethod
    def work(self) -> None:
        """Does the work, and keeps the result for `publish`. If it raises, `core.service.jobs.ladder` decides whether
        the job is requeued or fails."""

    @abstractmethod
    def publish(self, session: Session) -> None:
        """Writes the job's result to the database, if this worker still holds the claim on the job. It is called again
        after the database was unavailable."""

    @abstractmethod
    def stop(self) -> None:
        """Makes `work` end early with Cancelled. Called on another thread, possibly several times, when the job was
        cancelled or this worker's claim on it is lost."""

    def on_error(self, row: Job) -> None:
        """Called with the job's row before an attempt that raised an error is settled, to record the work done."""

    def on_failure(self, session: Session, row: Job, error: CoreError) -> None:
        """Called with the job's row in the transaction that marks the job as failed, for further changes."""

    def on_end(self, how: Settled | Literal["succeeded"]) -> None:
        """Called after the attempt was settled. `how` is "succeeded", "failed", "cancelled" or "returned"
        (requeued)."""


class Runner:
    """Threads of one worker that run the jobs of its queues."""

    def __init__(self, context: Context, attempts: Mapping[type[Any], type[Attempt[Any]]]) -> None:
        self.context = context
        self.attempts = {model: attempts[model] for model in context.serves}
        self._claiming = threading.Lock()
        self._bells = {model: threading.BoundedSemaphore(1) for model in self.attempts}  # 1: look for rows at the start
        self._threads = [
            threading.Thread(target=self._serve, args=(model,), name=f"{KINDS[model].queue}-{place}", daemon=True)
            for model in self.attempts
            for place in range(context.places(model))
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def wake(self, model: type[Any]) -> None:
        """Makes an idle thread of this queue look for a row. If all threads are busy, the next thread that becomes idle
        looks."""
        with suppress(ValueError):  # a wake-up is pending already
            self._bells[model].release()

    def wake_all(self) -> None:
        for model in self._bells:
            self.wake(model)

    def join(self) -> None:
        """Waits until all threads have settled their attempts and ended. Call it once `context.stopping` is set."""
        self.wake_all()
        for thread in self._threads:
            thread.join()

    def run_next(self, model: type[Any]) -> bool:
        """Claims the next row of a queue and makes one attempt at the job. Returns False if this worker may not claim
        any row of the queue. Raises DatabaseUnavailable."""
        claim = self._claim(model)
        if claim is None:
            return False
        self.wake(model)
        self._attempt(model, claim)
        if not self.context.leases.held():
            self.wake_all()  # a suspect (see `core.service.jobs.claims`) may wait until this worker is idle
        return True

    def _serve(self, model: type[Any]) -> None:
        while self._bells[model].acquire() and not self.context.stopping.is_set():
            try:
                while not self.context.stopping.is_set() and self.run_next(model):
                    pass
            except CoreError as error:  # the maintenance thread wakes it again
                logger.warning("%s waits: %s", KINDS[model].queue, error.detail)
            except Exception:  # an unexpected error in one attempt must not end the thread
                logger.exception("an attempt of %s was not settled", KINDS[model].queue)
        self.wake(model)  # so that the next thread ends too

    def _claim(self, model: type[Any]) -> Claim | None:
        """Claims the next row of a queue. Only one thread claims at a time, because a worker's right to claim a row
        depends on the rows that it holds."""
        context, places = self.context, self.context.places(model)
        with self._claiming, context.database.session() as session:
            return jobs.claim_next(
                session,
                model,
                context.id,
                context.settings.lease_seconds,
                most=places - 1 if places > 1 else None,
                most_images=context.settings.max_waiting_images,
                serves=context.serves,
            )

    def _attempt(self, model: type[Any], claim: Claim) -> None:
        attempt = self.attempts[model](self.context, claim)
        how: Settled | Literal["succeeded"] | None = "succeeded"
        with self.context.leases.hold(model, claim, attempt.stop):
            try:
                if self.context.stopping.is_set():  # since this thread looked for a row
                    raise EngineStopped
                if not self._committed(lambda session: self._load(session, model, attempt)):
                    return
                attempt.work()
                self._committed(attempt.publish)
            except Exception as error:
                how = self._settle(model, attempt, error)
        if how is not None:
            attempt.on_end(how)

    def _load(self, session: Session, model: type[Any], attempt: Attempt[Any]) -> bool:
        row = jobs.guarded(session, model, attempt.claim)
        if row is not None:
            attempt.load(session, row)
        return row is not None

    def _settle(self, model: type[Any], attempt: Attempt[Any], error: Exception) -> Settled | None:
        """Records in the database how an attempt that raised `error` ended. Returns how it ended, or None if this
        worker has lost its claim on the job."""
        claim = attempt.claim
        if isinstance(error, CoreError):
            logger.info("%s did not succeed: %s", claim.id, error.detail)
        else:
            logger.error("%s failed", claim.id, exc_info=error)
            if self.context.needs_device and is_lost(error):  # on this thread: the engine raises DeviceLost
                self.context.lose_device(error)
                error = DeviceLost(f"{type(error).__name__}: {error}")

        def settle(session: Session) -> Settled | None:
            row = jobs.guarded(session, model, claim)
            if row is None:
                return None
            attempt.on_error(row)
            how = jobs.settle(session, self.context.dispatcher, row, error, self.context.settings.max_attempts)
            if how == "failed" and isinstance(error, CoreError):
                attempt.on_failure(session, row, error)
            return how

        return self._committed(settle)

    def _committed(self, action: Callable[[Session], Result]) -> Result:
        """Runs `action` in a transaction, and returns its result. Retries while the database is unavailable, so that
        finished work is not lost. Raises DatabaseUnavailable if the worker stops meanwhile, and ResultRefused if the
        transaction has failed `_MAX_REFUSALS` times although the database answered other queries."""
        refusals = 0
        while True:
            try:
                with self.context.database.session() as session:
                    return action(session)
            except DatabaseUnavailable as error:
                logger.warning("an attempt waits for the database: %s", error.__cause__ or error)
                if self.context.stopping.wait(_DATABASE_SECONDS):
                    raise
                refusals += self._database_answers()
                if refusals >= _MAX_REFUSALS:
                    raise ResultRefused from error

    def _database_answers(self) -> bool:
        """Returns whether the database can be written to: on SQLite, a session that only reads needs no lock."""
        try:
            with self.context.database.session() as session:
                return database_now(session) is not None
        except DatabaseUnavailable:
            return False
