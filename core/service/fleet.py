"""The fleet: live workers, the adapters in their memory, and the base models that they have loaded."""

import datetime
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import ColumnElement, delete, exists, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from core.artifact.base import BaseDescription
from core.service.db.models import BaseModelRow, Worker
from core.service.db.paging import Page, PageRequest, fetch_page
from core.service.db.session import database_now
from core.service.errors import BaseNotLoaded

WORKER_SILENCE = datetime.timedelta(seconds=60)
"""Time without a heartbeat after which a worker no longer counts as live."""


def workers(session: Session) -> Sequence[Worker]:
    """Returns the live workers, healthy or not."""
    return session.scalars(select(Worker).where(is_alive(session)).order_by(Worker.id)).all()


def workers_page(session: Session, request: PageRequest) -> Page[Worker]:
    """Returns a page of live workers, the most recently started first. Raises InvalidCursor."""
    return fetch_page(session, select(Worker).where(is_alive(session)), Worker.id, request)


def is_alive(session: Session) -> ColumnElement[bool]:
    """Returns the SQL condition that a row of `workers` belongs to a live worker, which still sends heartbeats."""
    return Worker.heartbeat_at >= database_now(session) - WORKER_SILENCE


def residency(session: Session) -> dict[str, list[str]]:
    """Returns the ids of the live workers that have an adapter in device memory, by the adapter's SHA-256."""
    holders: dict[str, list[str]] = {}
    for worker in workers(session):
        for sha256 in worker.resident:
            holders.setdefault(sha256, []).append(worker.id)
    return holders


def some_worker_may_hold(session: Session, since: datetime.datetime) -> bool:
    """Returns whether any live worker has not evicted deleted adapters since the time `since`, and so may still have
    adapters in memory that were deleted before this time."""
    is_late = or_(Worker.evicted_at.is_(None), Worker.evicted_at <= since)
    return bool(session.scalar(select(exists().where(is_alive(session), is_late))))


def report_worker(session: Session, id: str, hostname: str, pid: int, state: dict[str, Any]) -> None:
    """Records a worker's heartbeat, and creates the worker's row at the first one. `state` has the values of the row's
    other columns, such as `device`, `base_digest`, `queues` and `resident` (SHA-256 of adapters in device memory)."""
    worker = session.get(Worker, id)
    if worker is None:
        worker = Worker(id=id, hostname=hostname, pid=pid)
        session.add(worker)
    for field, value in state.items():
        setattr(worker, field, value)
    worker.heartbeat_at = database_now(session)


def forget_worker(session: Session, id: str) -> None:
    """Deletes the row of a worker that shuts down cleanly."""
    session.execute(delete(Worker).where(Worker.id == id))


def register_base(session: Session, reference: str, description: BaseDescription) -> None:
    """Records that a worker has loaded a base model. `reference` is the value of its setting `base_model`."""
    digest, values = description.digest, description.to_json()
    try:
        with session.begin_nested():
            session.add(BaseModelRow(name=reference, digest=digest, description=values))
    except IntegrityError:  # the base model is recorded already, perhaps by another worker just now
        row = session.get_one(BaseModelRow, reference, with_for_update=True)
        row.digest, row.description = digest, values


def served_base(session: Session, reference: str) -> BaseDescription:
    """Returns the description of the base model that `reference`, the value of the setting `base_model`, names. Raises
    BaseNotLoaded if no worker has loaded this base model yet, or if all live workers have loaded other ones."""
    row, held = session.get(BaseModelRow, reference), _held_bases(session)
    if row is None or (held and row.digest not in held):
        raise BaseNotLoaded(reference, _base_names(session, held))
    return BaseDescription.from_json(row.description)


def all_hold(session: Session, reference: str) -> bool:
    """Returns whether all live workers that have loaded a base model have loaded the same one as `reference`, the value
    of the setting `base_model`, names."""
    row = session.get(BaseModelRow, reference)
    return _held_bases(session) <= ({row.digest} if row else set())


def _held_bases(session: Session) -> set[str]:
    return {worker.base_digest for worker in workers(session) if worker.base_digest}


def _base_names(session: Session, digests: Collection[str]) -> list[str]:
    """Returns the sorted names of the base models with these digests. A base model without a recorded name gets the
    first 12 characters of its digest."""
    rows = session.scalars(select(BaseModelRow).where(BaseModelRow.digest.in_(digests)))
    names = {row.digest: row.name for row in rows}
    return sorted(names.get(digest, digest[:12]) for digest in digests)
