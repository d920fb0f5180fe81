"""Runs jobs: claims rows, makes attempts and settles them. No other module does.

Every queue has its own threads, so that queues do not delay each other. A wake-up makes one idle thread look for a row;
each row that is found wakes the next thread, until no rows are left.
"""

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Generic, Literal, TypeVar

from sqlalchemy.orm import Session

from core.artifact.errors import CoreError
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
"""Seconds between two tries to store a result while the database does not answer."""
_MAX_REFUSALS = 10
"""Refusals of a result by a database that answers: it may be short of something for a while, or for good."""


class Attempt(ABC, Generic[Job]):
    """One try at one job; each queue has its own. The calls come in this order, and on one thread but for `stop`."""

    def __init__(self, context: Context, claim: Claim) -> None:
        self.context, self.claim = context, claim

    @abstractmethod
    def load(self, session: Session, row: Job) -> None:
        """Reads plain values from the row, so that no session is held during the work."""

    @abstractmethod
    def work(self) -> None:
        """Does the work, and keeps its result for `publish`. After an error `core.service.jobs.ladder` decides."""

    @abstractmethod
    def publish(self, session: Session) -> None:
        """Writes the result, if the claim is still ours. It may be called again when the database did not answer."""

    @abstractmethod
    def stop(self) -> None:
        """Called on another thread, perhaps often, when the row is cancelled or lost: `work` should raise Cancelled."""

    def on_failure(self, session: Session, row: Job, error: CoreError) -> None:
        """Called in the transaction that fails the row."""

    def on_end(self, how: Settled | Literal["succeeded"]) -> None:
        """Called when the row is settled."""


class Runner:
    """The threads of one worker for the queues that it serves."""

    def __init__(self, context: Context, attempts: Mapping[type[Any], type[Attempt[Any]]]) -> None:
        self.context = context
        self.attempts = {model: attempts[model] for model in context.serves}
        self._claiming = threading.Lock()
        self._bells = {model: threading.BoundedSemaphore(1) for model in self.attempts}  # rung: all look at the start
        self._threads = [
            threading.Thread(target=self._serve, args=(model,), name=f"{KINDS[model].queue}-{place}", daemon=True)
            for model in self.attempts
            for place in range(context.places(model))
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def wake(self, model: type[Any]) -> None:
        """Makes an idle thread of this queue look for rows; without one the next that is done looks."""
        with suppress(ValueError):  # it is rung already
            self._bells[model].release()

    def wake_all(self) -> None:
        for model in self._bells:
            self.wake(model)

    def join(self) -> None:
        """Waits until every attempt is settled, once the context is stopping."""
        self.wake_all()
        for thread in self._threads:
            thread.join()

    def run_next(self, model: type[Any]) -> bool:
        """Makes one attempt at the next row of a queue. Returns False if there is none for this worker. Raises
        DatabaseUnavailable."""
        claim = self._claim(model)
        if claim is None:
            return False
        self.wake(model)
        self._attempt(model, claim)
        if not self.context.leases.held():
            self.wake_all()  # a suspect may have waited for that, in whichever queue
        return True

    def _serve(self, model: type[Any]) -> None:
        while self._bells[model].acquire() and not self.context.stopping.is_set():
            try:
                while not self.context.stopping.is_set() and self.run_next(model):
                    pass
            except CoreError as error:  # maintenance wakes it again
                logger.warning("%s waits: %s", KINDS[model].queue, error.detail)
            except Exception:  # a defect in one attempt must not end the thread
                logger.exception("an attempt of %s was not settled", KINDS[model].queue)
        self.wake(model)  # the next thread ends too

    def _claim(self, model: type[Any]) -> Claim | None:
        """Claims a row, one thread at a time: whether a worker may claim a row depends on the rows it has."""
        context, places = self.context, self.context.places(model)
        with self._claiming, context.database.session() as session:
            return jobs.claim_next(
                session,
                model,
                context.id,
                context.settings.lease_seconds,
                most=places - 1 if places > 1 else None,
                serves=context.serves,
            )

    def _attempt(self, model: type[Any], claim: Claim) -> None:
        attempt = self.attempts[model](self.context, claim)
        how: Settled | Literal["succeeded"] | None = "succeeded"
        with self.context.leases.hold(model, claim, attempt.stop):
            try:
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
        """None when the claim was lost."""
        claim = attempt.claim
        if isinstance(error, CoreError):
            logger.info("%s did not succeed: %s", claim.id, error.detail)
        else:
            logger.error("%s failed", claim.id, exc_info=error)

        def settle(session: Session) -> Settled | None:
            row = jobs.guarded(session, model, claim)
            if row is None:
                return None
            how = jobs.settle(session, self.context.dispatcher, row, error, self.context.settings.max_attempts)
            if how == "failed" and isinstance(error, CoreError):
                attempt.on_failure(session, row, error)
            return how

        return self._committed(settle)

    def _committed(self, action: Callable[[Session], Result]) -> Result:
        """One transaction, made again while the database does not answer: the work that it is about is done, and the
        claim is still held. Raises DatabaseUnavailable when the worker stops, ResultRefused when the database answers
        all others."""
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
        try:
            with self.context.database.session() as session:
                return database_now(session) is not None
        except DatabaseUnavailable:
            return False
