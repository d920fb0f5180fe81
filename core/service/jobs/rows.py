"""Database rows of jobs: names of their queues and statuses, claims by workers, and the ways in which jobs end."""

import datetime
import logging
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session

from core.artifact.errors import CoreError
from core.service import metering
from core.service.db.models import Dataset, Finetune, FinetuneEvent, Generation
from core.service.db.session import after_commit, database_now
from core.service.webhooks import events

logger = logging.getLogger(__name__)

JobRow = Dataset | Finetune | Generation
Job = TypeVar("Job", Dataset, Finetune, Generation)


@dataclass(frozen=True)
class Kind:
    """Names of the queue, the Celery task and the statuses that the jobs of one table use."""

    queue: str
    task: str
    waiting: str = "queued"
    running: str = "running"
    succeeded: str = "succeeded"
    failed: str = "failed"
    cleared: tuple[str, ...] = ()
    """Columns that become None when a job ends."""


KINDS: dict[type[Any], Kind] = {
    Dataset: Kind(
        "datasets",
        "datasets.validate",
        waiting="validating",
        running="validating",
        succeeded="ready",
        failed="rejected",
        cleared=("to_fetch",),  # its URLs may be signed
    ),
    Finetune: Kind("finetune", "finetune.run"),
    Generation: Kind("generate", "generate.run"),
}


@dataclass(frozen=True)
class Claim:
    """A worker's right to write to one job's row, valid while the row still has this attempt number and a lease."""

    id: str
    attempt: int
    request_id: str | None = field(default=None, compare=False)
    traceparent: str | None = field(default=None, compare=False)


class Dispatcher(Protocol):
    """Wakes a worker for a job by a message. `send` never raises: workers also find jobs whose message was lost."""

    def send(self, task: str, queue: str, id: str) -> None: ...


def dispatch(session: Session, dispatcher: Dispatcher, job: JobRow) -> None:
    """Wakes a worker for this job once the transaction is committed; does nothing after a rollback."""
    kind, id = KINDS[type(job)], job.id
    after_commit(session, lambda: dispatcher.send(kind.task, kind.queue, id))


def heartbeat(
    session: Session, model: type[Job], claim: Claim, lease_seconds: float
) -> Literal["alive", "cancel", "lost"]:
    """Extends the lease of a claimed job to `lease_seconds` from now. Returns "cancel" if the job's cancellation was
    requested, "lost" if the job's row is gone or no longer claimed by this claim, and "alive" otherwise."""
    until = database_now(session) + datetime.timedelta(seconds=lease_seconds)
    statement = update(model).where(*_ours(model, claim)).values(lease_expires_at=until)
    state = session.execute(statement.returning(model.cancel_requested_at)).one_or_none()
    if state is None:
        return "lost"
    return "alive" if state[0] is None else "cancel"


def guarded(session: Session, model: type[Job], claim: Claim) -> Job | None:
    """Returns the job's row, locked until the transaction ends, or None if the claim on the job was lost."""
    statement = select(model).where(*_ours(model, claim)).with_for_update(of=model)
    return session.execute(statement).scalar_one_or_none()


def keep_progress(job: JobRow) -> None:
    """Resets the counts of failures, requeues and crashes, and the mark as a suspect, of a job that has just stored
    progress from which another attempt can continue."""
    job.failures = job.requeues = job.crashes = 0
    job.suspect = False


def finish(session: Session, job: JobRow, status: str, **details: Any) -> None:
    """Ends a job with a final status, and reports the end to webhooks and, for a fine-tune, in its events. `details`
    are added to the data of this event. Meters what an unsuccessful generation has used."""
    job.status = status
    job.lease_expires_at = job.not_before = None
    for column in KINDS[type(job)].cleared:
        setattr(job, column, None)
    job.finished_at = database_now(session)
    events.job_ended(session, job)
    report(session, job, "status", {"status": status, **details})
    if isinstance(job, Generation) and status != KINDS[Generation].succeeded:
        images, model_evaluations = metering.unmetered(session, Generation.id == job.id)
        metering.meter(session, job.tenant_id, images=images, model_evaluations=model_evaluations)
    message = f"{job.id} {status}" + (f": {job.error_code}" if job.error_code else "")
    after_commit(session, lambda: logger.info(message))


def fail(session: Session, job: JobRow, error: CoreError) -> None:
    """Ends a job as failed, and stores the code and the message of `error` in the job's row."""
    job.error_code, job.error_detail = error.code, error.detail
    report(session, job, "error", job.error or {})
    finish(session, job, KINDS[type(job)].failed)


def report(session: Session, job: JobRow, type: str, data: dict[str, Any]) -> None:
    """Adds an event to a fine-tune's events. Does nothing for jobs of other kinds, which have no events.

    Incrementing the event count in the fine-tune's row locks the row until the commit. So events become visible in the
    order of their ids, and no listener misses an event that is committed late.
    """
    if not isinstance(job, Finetune):
        return
    counted = update(Finetune).where(Finetune.id == job.id).values(last_event_id=Finetune.last_event_id + 1)
    id = session.execute(counted.returning(Finetune.last_event_id)).scalar_one()
    session.add(FinetuneEvent(finetune_id=job.id, id=id, tenant_id=job.tenant_id, type=type, data=data))


def request_cancel(session: Session, job: JobRow) -> bool:
    """Requests the cancellation of an unfinished job, whose row must be locked. If no worker has claimed the job, ends
    it as cancelled at once and returns True."""
    job.cancel_requested_at = job.cancel_requested_at or database_now(session)
    if job.lease_expires_at is not None:
        return False
    finish(session, job, "cancelled")
    return True


def _ours(model: type[Any], claim: Claim) -> tuple[ColumnElement[bool], ...]:
    """Returns the SQL conditions under which a claim is still valid: the row has the claim's id and attempt number, and
    a lease."""
    return model.id == claim.id, model.attempt == claim.attempt, model.lease_expires_at.is_not(None)
