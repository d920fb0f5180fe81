"""Rows that are jobs: their kinds, the fence, and how they end."""

import datetime
import logging
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session

from core.artifact.errors import CoreError
from core.service.db.models import Dataset, Finetune, FinetuneEvent, Generation
from core.service.db.session import after_commit, database_now
from core.service.webhooks import events

logger = logging.getLogger(__name__)

JobRow = Dataset | Finetune | Generation
Job = TypeVar("Job", Dataset, Finetune, Generation)


@dataclass(frozen=True)
class Kind:
    """Queue, task and status names of one table's jobs."""

    queue: str
    task: str
    waiting: str = "queued"
    running: str = "running"
    succeeded: str = "succeeded"
    failed: str = "failed"


KINDS: dict[type[Any], Kind] = {
    Dataset: Kind(
        "datasets",
        "datasets.validate",
        waiting="validating",
        running="validating",
        succeeded="ready",
        failed="rejected",
    ),
    Finetune: Kind("finetune", "finetune.run"),
    Generation: Kind("generate", "generate.run"),
}


@dataclass(frozen=True)
class Claim:
    """Right to write to one row, as long as its attempt is still ours."""

    id: str
    attempt: int
    request_id: str | None = field(default=None, compare=False)
    traceparent: str | None = field(default=None, compare=False)


class Dispatcher(Protocol):
    """Sends wake-ups. Never raises: workers also look for rows without one."""

    def send(self, task: str, queue: str, id: str) -> None: ...


def dispatch(session: Session, dispatcher: Dispatcher, job: JobRow) -> None:
    """Wakes a worker for this row once the transaction is committed; a rollback drops it."""
    kind, id = KINDS[type(job)], job.id
    after_commit(session, lambda: dispatcher.send(kind.task, kind.queue, id))


def heartbeat(
    session: Session, model: type[Job], claim: Claim, lease_seconds: float
) -> Literal["alive", "cancel", "lost"]:
    """Extends the lease. Returns "cancel" if the tenant cancelled the job, "lost" if the row is gone or claimed by
    another worker."""
    until = database_now(session) + datetime.timedelta(seconds=lease_seconds)
    statement = update(model).where(*_ours(model, claim)).values(lease_expires_at=until)
    state = session.execute(statement.returning(model.cancel_requested_at)).one_or_none()
    if state is None:
        return "lost"
    return "alive" if state[0] is None else "cancel"


def guarded(session: Session, model: type[Job], claim: Claim) -> Job | None:
    """Returns the row, locked until the transaction ends, if it is still this claim's; None otherwise."""
    statement = select(model).where(*_ours(model, claim)).with_for_update(of=model)
    return session.execute(statement).scalar_one_or_none()


def keep_progress(job: JobRow) -> None:
    """Resets the job's failures and suspicion: it has made progress that another attempt continues from."""
    job.failures = job.requeues = job.crashes = 0
    job.suspect = False


def finish(session: Session, job: JobRow, status: str, **details: Any) -> None:
    """Ends a row for good, and reports it to webhooks and listeners; `about` goes to the listeners of a fine-tune."""
    job.status = status
    job.lease_expires_at = job.not_before = None
    job.finished_at = database_now(session)
    events.job_ended(session, job)
    report(session, job, "status", {"status": status, **details})
    message = f"{job.id} {status}" + (f": {job.error_code}" if job.error_code else "")
    after_commit(session, lambda: logger.info(message))


def fail(session: Session, job: JobRow, error: CoreError) -> None:
    """Ends a row with the error's code and sentence."""
    job.error_code, job.error_detail = error.code, error.detail
    report(session, job, "error", job.error or {})
    finish(session, job, KINDS[type(job)].failed)


def report(session: Session, job: JobRow, type: str, data: dict[str, Any]) -> None:
    """Adds an event to a fine-tune's; the other kinds have none.

    The count on the row locks it: ids become visible in their order, and no listener misses one that commits late.
    """
    if not isinstance(job, Finetune):
        return
    counted = update(Finetune).where(Finetune.id == job.id).values(last_event_id=Finetune.last_event_id + 1)
    id = session.execute(counted.returning(Finetune.last_event_id)).scalar_one()
    session.add(FinetuneEvent(finetune_id=job.id, id=id, tenant_id=job.tenant_id, type=type, data=data))


def request_cancel(session: Session, job: JobRow) -> bool:
    """Requests the cancellation of a row. Ends it at once, and returns True, when no worker holds it."""
    statement = update(type(job)).where(type(job).id == job.id, type(job).cancel_requested_at.is_(None))
    session.execute(statement.values(cancel_requested_at=database_now(session)))
    session.refresh(job, with_for_update=True)
    # A worker may have ended it while this waited for the row's lock: finished rows do not change.
    if job.lease_expires_at is not None or job.finished_at is not None:
        return False
    finish(session, job, "cancelled")
    return True


def _ours(model: type[Any], claim: Claim) -> tuple[ColumnElement[bool], ...]:
    """Returns the conditions of the fence: the claim's row, attempt and lease."""
    return model.id == claim.id, model.attempt == claim.attempt, model.lease_expires_at.is_not(None)
