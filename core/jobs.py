"""Long work. The row is the truth, the message is a hint.

The insert of a job's row is the outbox; its message leaves after the commit, and may be lost. A worker claims a row by
compare-and-set and gets an attempt number: the fence. Every later write checks the fence, so that a worker that was
thought dead changes nothing when it comes back. Times are the database's.
"""

import datetime
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

from prometheus_client import Counter
from sqlalchemy import ColumnElement, and_, func, or_, select, update
from sqlalchemy.orm import Session, aliased

from core.db.models import Dataset, Finetune, Generation, Tenant
from core.db.session import after_commit, database_now
from core.errors import AttemptsExhausted, CoreError
from core.webhooks import events

logger = logging.getLogger(__name__)
REAPED = Counter("difffit_jobs_reaped", "Jobs whose worker was lost, as this process found out", ["queue"])

Job = TypeVar("Job", Dataset, Finetune, Generation)


@dataclass(frozen=True)
class Kind:
    """How one table's rows are jobs."""

    queue: str
    task: str
    waiting: str = "queued"
    running: str = "running"
    succeeded: str = "succeeded"
    failed: str = "failed"


KINDS: dict[type[Any], Kind] = {
    Dataset: Kind("datasets", "datasets.validate", "validating", "validating", "ready", "rejected"),
    Finetune: Kind("finetune", "finetune.run"),
    Generation: Kind("generate", "generate.run"),
}


@dataclass(frozen=True)
class Claim:
    """The right to write to one row, as long as its attempt is still ours."""

    id: str
    attempt: int
    request_id: str | None = field(default=None, compare=False)
    traceparent: str | None = field(default=None, compare=False)


class Dispatcher(Protocol):
    """Sends wake-ups. Never raises: what could not be sent is found by the sweeper."""

    def send(self, task: str, queue: str, id: str) -> None: ...


def dispatch(session: Session, dispatcher: Dispatcher, job: Dataset | Finetune | Generation) -> None:
    """Wakes a worker for this row once the transaction is committed; a rollback drops it."""
    kind = KINDS[type(job)]
    job.dispatched_at = database_now(session)
    after_commit(session, lambda: dispatcher.send(kind.task, kind.queue, job.id))


def claim_next(session: Session, model: type[Job], worker_id: str, lease_seconds: float) -> Claim | None:
    """Takes the next waiting row, or None.

    Between tenants the one with the fewest rows in work for its weight goes first, whatever the order of arrival;
    within a tenant by priority, then age.
    """
    kind = KINDS[model]
    running = aliased(model)
    # Counted once for each tenant, not for each waiting row: a long queue must not slow the claims.
    in_work = (
        select(running.tenant_id, func.count().label("rows"))
        .where(running.lease_expires_at.is_not(None))
        .group_by(running.tenant_id)
        .subquery()
    )
    statement = (
        select(model)
        .join(Tenant, Tenant.id == model.tenant_id)
        .outerjoin(in_work, in_work.c.tenant_id == model.tenant_id)
        .where(model.status == kind.waiting, model.lease_expires_at.is_(None), model.cancel_requested_at.is_(None))
        .order_by(func.coalesce(in_work.c.rows, 0) / Tenant.weight, model.priority.desc(), model.created_at, model.id)
        .limit(1)
        .with_for_update(of=model, skip_locked=True)
    )
    job = session.execute(statement).scalar_one_or_none()
    if job is None:
        return None
    now = database_now(session)
    job.status = kind.running
    job.attempt += 1
    job.worker_id = worker_id
    job.lease_expires_at = now + datetime.timedelta(seconds=lease_seconds)
    job.started_at = job.started_at or now
    job.error_code = job.error_detail = None
    session.flush()
    return Claim(job.id, job.attempt, job.request_id, job.traceparent)


def heartbeat(
    session: Session, model: type[Job], claim: Claim, lease_seconds: float
) -> Literal["alive", "cancel", "lost"]:
    """Prolongs the lease. "cancel": the tenant wants it ended. "lost": the row is somebody else's, or gone."""
    until = database_now(session) + datetime.timedelta(seconds=lease_seconds)
    statement = update(model).where(*_ours(model, claim)).values(lease_expires_at=until)
    found = session.execute(statement.returning(model.cancel_requested_at)).one_or_none()
    if found is None:
        return "lost"
    return "alive" if found[0] is None else "cancel"


def guarded(session: Session, model: type[Job], claim: Claim) -> Job | None:
    """The row, locked until the transaction ends, if it is still this claim's; None otherwise."""
    statement = select(model).where(*_ours(model, claim)).with_for_update(of=model)
    return session.execute(statement).scalar_one_or_none()


def release(session: Session, dispatcher: Dispatcher, job: Dataset | Finetune | Generation) -> None:
    """Hands a claimed row back, for another worker to go on with; one that is to be cancelled ends instead."""
    if _hand_back(session, job):
        dispatch(session, dispatcher, job)


def postpone(session: Session, job: Dataset | Finetune | Generation) -> None:
    """Hands a claimed row back for later: the sweeper sends it again when its turn has come. A service below did not
    answer, which is no failure of the job. One that is to be cancelled ends instead."""
    if _hand_back(session, job):
        job.dispatched_at = database_now(session)


def set_back(session: Session, job: Dataset | Finetune | Generation, error: CoreError, max_attempts: int) -> None:
    """Hands a claimed row back for later with the reason that a tenant and an operator should read. It fails when that
    happened too often without progress: what lacks may not come back by itself."""
    job.failures += 1
    job.error_code, job.error_detail = error.code, error.detail
    if job.failures >= max_attempts and job.cancel_requested_at is None:
        fail(session, job, error)
    else:
        postpone(session, job)


def finish(session: Session, job: Dataset | Finetune | Generation, status: str) -> None:
    """Ends a row for good, and tells those who listen."""
    job.status = status
    job.lease_expires_at = None
    job.finished_at = database_now(session)
    events.job_ended(session, job)
    told = f"{job.id} {status}" + (f": {job.error_code}" if job.error_code else "")
    after_commit(session, lambda: logger.info(told))


def fail(session: Session, job: Dataset | Finetune | Generation, error: CoreError) -> None:
    """Ends a row with the error's code and sentence."""
    job.error_code, job.error_detail = error.code, error.detail
    finish(session, job, KINDS[type(job)].failed)


def expired(session: Session, model: type[Job]) -> Sequence[Job]:
    """Rows whose worker has not renewed its lease, locked."""
    statement = select(model).where(model.lease_expires_at < database_now(session)).with_for_update(skip_locked=True)
    return session.execute(statement).scalars().all()


def reap(
    session: Session, dispatcher: Dispatcher, model: type[Job], max_attempts: int, held: Collection[Claim] = ()
) -> list[Job]:
    """Hands back the rows of lost workers. Returns those that ended instead: cancelled meanwhile, or lost too often
    without progress. Rows that the caller itself holds are not lost: it is only late with its heartbeat."""
    ended = []
    for job in expired(session, model):
        if Claim(job.id, job.attempt) in held:
            continue
        job.failures += 1
        REAPED.labels(KINDS[model].queue).inc()
        logger.warning("%s lost its worker %s in attempt %d", job.id, job.worker_id, job.attempt)
        if job.cancel_requested_at is not None:
            finish(session, job, "cancelled")
        elif job.failures >= max_attempts:
            fail(session, job, AttemptsExhausted(job.failures))
        else:
            release(session, dispatcher, job)
            continue
        ended.append(job)
    return ended


def sweep(session: Session, dispatcher: Dispatcher, model: type[Job], older_than_seconds: float) -> int:
    """Sends the message of waiting rows again when none was sent lately: whatever the broker lost comes back."""
    kind = KINDS[model]
    limit = database_now(session) - datetime.timedelta(seconds=older_than_seconds)
    statement = (
        select(model)
        .where(
            and_(model.status == kind.waiting, model.lease_expires_at.is_(None)),
            or_(model.dispatched_at.is_(None), model.dispatched_at < limit),
        )
        .order_by(model.created_at)
        .limit(100)
        .with_for_update(skip_locked=True)
    )
    jobs = session.execute(statement).scalars().all()
    for job in jobs:
        dispatch(session, dispatcher, job)
    return len(jobs)


@dataclass(frozen=True)
class Queue:
    """How much work of one kind there is."""

    queue: str
    waiting: int
    running: int
    oldest_waiting_at: datetime.datetime | None


def queues(session: Session) -> list[Queue]:
    """Of every tenant, for an administrator."""
    return [_queue(session, model, kind) for model, kind in KINDS.items()]


def _queue(session: Session, model: type[Any], kind: Kind) -> Queue:
    is_held = model.lease_expires_at.is_not(None)
    waits = and_(model.status == kind.waiting, model.lease_expires_at.is_(None))
    # One row for each of the two: what has ended is most of the table, and is not read.
    waiting, oldest = session.execute(select(func.count(), func.min(model.created_at)).where(waits)).one()
    running = session.execute(select(func.count()).select_from(model).where(is_held)).scalar_one()
    return Queue(kind.queue, waiting, running, oldest)


def request_cancel(session: Session, job: Dataset | Finetune | Generation) -> bool:
    """Asks for the end of a row. One that nobody works on ends at once; True then."""
    statement = update(type(job)).where(type(job).id == job.id, type(job).cancel_requested_at.is_(None))
    session.execute(statement.values(cancel_requested_at=database_now(session)))
    session.refresh(job, with_for_update=True)
    # A worker may have ended it while this waited for the row: what is finished stays as it is.
    if job.lease_expires_at is not None or job.finished_at is not None:
        return False
    finish(session, job, "cancelled")
    return True


def _ours(model: type[Any], claim: Claim) -> tuple[ColumnElement[bool], ...]:
    """The fence."""
    return model.id == claim.id, model.attempt == claim.attempt, model.lease_expires_at.is_not(None)


def _hand_back(session: Session, job: Dataset | Finetune | Generation) -> bool:
    """Makes a claimed row wait again. Nobody would claim one that is to be cancelled, so it ends; False then."""
    if job.cancel_requested_at is not None:
        finish(session, job, "cancelled")
        return False
    job.status = KINDS[type(job)].waiting
    job.worker_id = job.lease_expires_at = None
    return True
