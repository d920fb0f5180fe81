"""Chooses the next job for a worker: fair between tenants, and isolating jobs that may have crashed a worker.

When a worker dies, nobody knows which of its jobs caused the crash. All jobs that it had claimed become suspects and
run one at a time, each alone on a worker, so that the next crash has only one possible cause. A suspect that ends or
stores progress is cleared. All of this state is in the jobs' database rows, so that any number of workers agree on it.
A worker must not call `claim_next` from two threads at once.
"""

import datetime
from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import ColumnElement, Select, func, literal, or_, select, union_all, update
from sqlalchemy.orm import Session, aliased

from core.service import fleet
from core.service.db.base import Now
from core.service.db.models import Generation, Tenant, Worker
from core.service.db.session import database_now
from core.service.jobs.rows import KINDS, Claim, Job


def claim_next(
    session: Session,
    model: type[Job],
    worker_id: str,
    lease_seconds: float,
    *,
    most: int | None = None,
    most_images: int | None = None,
    serves: Collection[type[Any]] = tuple(KINDS),
) -> Claim | None:
    """Claims the next available job of the table `model` for a worker. Returns None if it may claim none.

    Suspects come first, each on a worker without other jobs. Then comes the tenant with the fewest running jobs
    relative to its weight, regardless of the order of arrival; within a tenant the highest priority, then the oldest
    job. A worker holds at most `most` jobs of this table per tenant. Its generations have at most `most_images` images
    together, of which one tenant gets a part. `serves` lists the tables whose queues the worker serves: while suspects
    wait in one of these queues, the worker may have to drain, that is, to claim nothing until its own jobs have ended.
    """
    holds = _held_by(session, worker_id)
    if any(suspect for suspect, _ in holds):
        return None
    waiting = _waiting_suspects(session, serves)
    suspect = _first(session, _suspects(model)) if waiting and not holds else None
    if waiting and suspect is None and _is_needed(session, worker_id, waiting):
        return None
    fits = () if model is not Generation or most_images is None else _fits(session, worker_id, most_images)
    job = suspect or _first(session, _fairest(model, worker_id, most).where(*fits))
    if job is None:
        return None
    if any(alone for _, alone in holds):
        _mark_accompanied(session, worker_id)
    now = database_now(session)
    job.status = KINDS[model].running
    job.attempt += 1
    job.worker_id = worker_id
    job.lease_expires_at = now + datetime.timedelta(seconds=lease_seconds)
    job.started_at = job.started_at or now
    job.alone = not holds
    job.not_before = job.error_code = job.error_detail = None
    session.flush()
    return Claim(job.id, job.attempt, job.request_id, job.traceparent)


def should_drain(session: Session, worker_id: str, serves: Collection[type[Any]] = tuple(KINDS)) -> bool:
    """Returns whether this worker should requeue its jobs at their next checkpoint and claim no others, because a
    suspect waits for a worker without jobs."""
    waiting = _waiting_suspects(session, serves)
    return bool(waiting) and _is_needed(session, worker_id, waiting)


def _held_by(session: Session, worker_id: str) -> list[tuple[bool, bool]]:
    """Returns the columns `suspect` and `alone` of each job that a worker has claimed, in all tables."""
    held = (
        select(model.suspect, model.alone).where(model.worker_id == worker_id, model.lease_expires_at.is_not(None))
        for model in KINDS
    )
    return [(suspect, alone) for suspect, alone in session.execute(union_all(*held))]


def _mark_accompanied(session: Session, worker_id: str) -> None:
    for model in KINDS:
        held = (model.worker_id == worker_id, model.lease_expires_at.is_not(None), model.alone)
        session.execute(update(model).where(*held).values(alone=False))


def _claimable(model: type[Any], *, suspect: bool) -> tuple[ColumnElement[bool], ...]:
    return (
        model.status == KINDS[model].waiting,
        model.lease_expires_at.is_(None),
        model.cancel_requested_at.is_(None),
        model.suspect if suspect else ~model.suspect,
        or_(model.not_before.is_(None), model.not_before <= Now()),
    )


def _waiting_suspects(session: Session, serves: Collection[type[Any]]) -> dict[str, int]:
    """Counts the suspects that a worker may claim now, by queue; leaves out queues without any."""
    counts = (
        select(literal(KINDS[model].queue), func.count()).where(*_claimable(model, suspect=True)) for model in serves
    )
    return {queue: count for queue, count in session.execute(union_all(*counts)) if count}


def _is_needed(session: Session, worker_id: str, waiting: Mapping[str, int]) -> bool:
    """Returns whether this worker has to drain for one of the suspects in `waiting` (their count by queue).

    If n suspects wait in a queue, the n newest healthy workers that serve this queue drain. The newest worker has
    usually just replaced the crashed one, and so has the fewest jobs to finish.
    """
    living = (fleet.is_alive(session), Worker.healthy)
    newer = session.execute(select(Worker.queues).where(*living, Worker.id > worker_id)).scalars().all()
    return any(sum(queue in queues for queues in newer) < count for queue, count in waiting.items())


def _suspects(model: type[Job]) -> Select[Job]:
    """Selects the suspects that a worker may claim now. Suspects with the fewest crashes while alone on a worker come
    first: they are the least likely cause of the crash."""
    return select(model).where(*_claimable(model, suspect=True)).order_by(model.crashes, model.created_at, model.id)


def _fairest(model: type[Job], worker_id: str, most: int | None) -> Select[Job]:
    running = aliased(model)
    is_held = running.lease_expires_at.is_not(None)
    # Counts running jobs once per tenant, not once per waiting job: a long queue must not slow down claims.
    in_work = (
        select(running.tenant_id, func.count().label("rows")).where(is_held).group_by(running.tenant_id).subquery()
    )
    statement = (
        select(model)
        .join(Tenant, Tenant.id == model.tenant_id)
        .outerjoin(in_work, in_work.c.tenant_id == model.tenant_id)
        .where(*_claimable(model, suspect=False))
        .order_by(func.coalesce(in_work.c.rows, 0) / Tenant.weight, model.priority.desc(), model.created_at, model.id)
    )
    if most is None:
        return statement
    here = select(running.tenant_id).where(is_held, running.worker_id == worker_id)
    return statement.where(model.tenant_id.not_in(here.group_by(running.tenant_id).having(func.count() >= most)))


def _fits(session: Session, worker_id: str, most_images: int) -> tuple[ColumnElement[bool], ...]:
    """Returns the conditions under which a worker may hold another generation. A tenant that holds at least half as
    many images as are free gets no others, so that a request of another tenant finds room; a tenant alone gets more
    than a third of `most_images`, which fills the device. Without any images, a worker may claim any generation."""
    held = select(Generation.tenant_id, func.sum(Generation.count))
    held = held.where(Generation.worker_id == worker_id, Generation.lease_expires_at.is_not(None))
    images = dict(session.execute(held.group_by(Generation.tenant_id)).all())
    if not images:
        return ()
    free = most_images - sum(images.values())
    full = [tenant for tenant, count in images.items() if count >= free / 2]
    return Generation.count <= free, Generation.tenant_id.not_in(full)


def _first(session: Session, statement: Select[Job]) -> Job | None:
    model = statement.column_descriptions[0]["entity"]
    return session.execute(statement.limit(1).with_for_update(of=model, skip_locked=True)).scalar_one_or_none()
