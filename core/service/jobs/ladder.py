"""Decides what happens to a job after a failed attempt, by one table (the ladder) for all queues.

| what happened to the attempt | what happens to the job |
| --- | --- |
| the worker or its engine stops, or the job was cancelled | is requeued immediately, or ends as cancelled |
| the object store or the database does not respond | is requeued with growing delays, without a limit |
| the object store is full, or the database rejects the result | the same, but fails after `max_attempts` of these |
| the worker died | is requeued as a suspect; fails after `max_attempts` crashes while alone on a worker |
| the device (GPU) died | the same, but fails after two crashes while alone on a worker |
| anything else | fails with the error's code |
"""

import datetime
import logging
import random
from collections.abc import Callable, Collection, Sequence
from typing import Literal

from prometheus_client import Counter
from sqlalchemy import select
from sqlalchemy.orm import Session

from core.artifact.errors import Cancelled, CoreError, DeviceLost, EngineStopped, QueueFull
from core.service.db.models import Finetune, FinetuneEvent
from core.service.db.session import database_now
from core.service.errors import DatabaseUnavailable, DeviceCrashed, ResultRefused, WorkerCrashed
from core.service.jobs.rows import KINDS, Claim, Dispatcher, Job, JobRow, dispatch, fail, finish, report
from core.service.storage.errors import StorageFull, StorageUnavailable

logger = logging.getLogger(__name__)
REAPED = Counter("difffit_jobs_reaped", "Jobs whose worker was lost, as this process found out", ["queue"])
Settled = Literal["returned", "cancelled", "failed"]

_DEVICE_CRASHES = 2
_FIRST_SECONDS, _MOST_SECONDS, _JITTER = 1.0, 300.0, 0.25


def settle(session: Session, dispatcher: Dispatcher, job: JobRow, error: Exception, max_attempts: int) -> Settled:
    """Requeues, fails or cancels a claimed job whose attempt ended with `error`, by the table of this module. Returns
    which of them happened ("returned" means requeued). The job's row must be locked."""
    match error:
        case DeviceLost():
            _blame(session, dispatcher, job, DeviceCrashed(job.crashes + 1), _DEVICE_CRASHES)
        case EngineStopped() | Cancelled():
            requeue(session, dispatcher, job)
        case StorageFull() | ResultRefused():
            requeue_counted(session, job, error, max_attempts)
        case StorageUnavailable() | DatabaseUnavailable() | QueueFull():
            requeue_later(session, job, error)
        case CoreError():
            fail(session, job, error)
        case _:
            fail(
                session,
                job,
                CoreError(
                    "An internal error ended the job. Start it again; if it fails again, send its id to the operator."
                ),
            )
    if job.finished_at is None:
        return "returned"
    return "failed" if job.status == KINDS[type(job)].failed else "cancelled"


def requeue(session: Session, dispatcher: Dispatcher, job: JobRow) -> None:
    """Requeues a claimed job, so that another worker can continue it immediately. Ends the job as cancelled instead if
    its cancellation was requested."""
    if _unclaim(session, job):
        report(session, job, "status", {"status": job.status})
        dispatch(session, dispatcher, job)


def requeue_later(session: Session, job: JobRow, error: CoreError) -> None:
    """Requeues a claimed job with a delay, which grows with each requeue, and stores `error` in the job's row as the
    reason why it waits. Ends the job as cancelled instead if its cancellation was requested."""
    if not _unclaim(session, job):
        return
    job.requeues += 1
    job.not_before = database_now(session) + datetime.timedelta(seconds=backoff_seconds(job.requeues))
    job.error_code, job.error_detail = error.code, error.detail
    if not is_told_to_wait(session, job, error.code):
        report(session, job, "error", job.error or {})


def requeue_counted(session: Session, job: JobRow, error: CoreError, max_attempts: int) -> None:
    """Requeues a claimed job like `requeue_later`, but fails it after `max_attempts` calls without progress between
    them, since the missing resource may never return."""
    job.failures += 1
    if job.failures >= max_attempts and job.cancel_requested_at is None:
        fail(session, job, error)
    else:
        requeue_later(session, job, error)


def reap(
    session: Session, dispatcher: Dispatcher, model: type[Job], max_attempts: int, held: Collection[Claim] = ()
) -> list[Job]:
    """Requeues, as suspects, the jobs of table `model` whose lease has expired because their worker was lost. Returns
    the jobs that ended instead: cancelled ones, and ones that crashed too often while alone on a worker. Skips the
    claims in `held`, which the calling worker still works on: it is only late with its heartbeat."""
    ended = []
    for job in _expired(session, model):
        if Claim(job.id, job.attempt) in held:
            continue
        REAPED.labels(KINDS[model].queue).inc()
        logger.warning("%s lost its worker %s in attempt %d", job.id, job.worker_id, job.attempt)
        _blame(session, dispatcher, job, WorkerCrashed(job.crashes + 1), max_attempts)
        if job.finished_at is not None:
            ended.append(job)
    return ended


def backoff_seconds(requeues: int, chance: Callable[[], float] = random.random) -> float:
    """Returns the delay before a job's next attempt, in seconds, after this many requeues in a row: exponential
    backoff from 1 s to 5 min. `chance` returns a random number from 0 to 1 for a jitter of ±25 %, so that jobs that
    failed together are retried at different times."""
    seconds = min(_MOST_SECONDS, _FIRST_SECONDS * 2.0 ** min(requeues - 1, 30))
    return seconds * (1 - _JITTER + 2 * _JITTER * chance())


def is_told_to_wait(session: Session, job: JobRow, code: str | None = None) -> bool:
    """Returns whether a fine-tune's last event already reports that it waits (because of the error `code`, if given),
    so that repeated attempts need not add the same event. Returns False for jobs of other kinds: they have no
    events."""
    if not isinstance(job, Finetune):
        return False
    last = select(FinetuneEvent).where(FinetuneEvent.finetune_id == job.id).order_by(FinetuneEvent.id.desc()).limit(1)
    event = session.execute(last).scalar_one_or_none()
    return event is not None and event.type == "error" and code in (None, event.data["code"])


def _blame(session: Session, dispatcher: Dispatcher, job: JobRow, error: CoreError, most: int) -> None:
    """Requeues a job whose worker or device crashed, as a suspect. If the job was alone on the worker, also counts the
    crash in the job's row; at `most` counted crashes, fails the job with `error` instead."""
    job.suspect = True
    if not job.alone:
        requeue(session, dispatcher, job)
        return
    job.crashes += 1
    if job.crashes >= most and job.cancel_requested_at is None:
        fail(session, job, error)
    else:
        requeue(session, dispatcher, job)


def _expired(session: Session, model: type[Job]) -> Sequence[Job]:
    """Returns, locked, the jobs of table `model` whose lease has expired: their worker sent no heartbeat in time. They
    are ordered by tenant, so that two workers lock the usage of tenants in the same order."""
    expired = select(model).where(model.lease_expires_at < database_now(session)).order_by(model.tenant_id)
    return session.execute(expired.with_for_update(skip_locked=True)).scalars().all()


def _unclaim(session: Session, job: JobRow) -> bool:
    """Ends the worker's claim on a job, so that the job waits in its queue again. Returns False if the job ended as
    cancelled instead: no worker claims a job whose cancellation was requested."""
    if job.cancel_requested_at is not None:
        finish(session, job, "cancelled")
        return False
    job.status = KINDS[type(job)].waiting
    job.worker_id = job.lease_expires_at = None
    return True
