"""The fleet: live workers, the adapters that they hold, and the bases that they have loaded."""

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
"""Time without a heartbeat after which a worker counts as gone."""


def workers(session: Session) -> Sequence[Worker]:
    """Returns the live workers, healthy or not."""
    return session.scalars(select(Worker).where(is_alive(session)).order_by(Worker.id)).all()


def workers_page(session: Session, request: PageRequest) -> Page[Worker]:
    """Returns a page of live workers, the latest first. Raises InvalidCursor."""
    return fetch_page(session, select(Worker).where(is_alive(session)), Worker.id, request)


def is_alive(session: Session) -> ColumnElement[bool]:
    """Returns the condition for a worker that still sends heartbeats."""
    return Worker.heartbeat_at >= database_now(session) - WORKER_SILENCE


def residency(session: Session) -> dict[str, list[str]]:
    """Maps an adapter's SHA-256 to the live workers that hold it in their device table."""
    holders: dict[str, list[str]] = {}
    for worker in workers(session):
        for sha256 in worker.resident:
            holders.setdefault(sha256, []).append(worker.id)
    return holders


def some_worker_may_hold(session: Session, since: datetime.datetime) -> bool:
    """Returns whether a live worker may still hold adapters that were deleted before `since`."""
    is_late = or_(Worker.evicted_at.is_(None), Worker.evicted_at <= since)
    return bool(session.scalar(select(exists().where(is_alive(session), is_late))))


def report_worker(session: Session, id: str, hostname: str, pid: int, state: dict[str, Any]) -> None:
    """Records a worker's heartbeat; `state` has its device, base_digest, queues and resident adapters."""
    worker = session.get(Worker, id)
    if worker is None:
        worker = Worker(id=id, hostname=hostname, pid=pid)
        session.add(worker)
    for field, value in state.items():
        setattr(worker, field, value)
    worker.heartbeat_at = database_now(session)


def forget_worker(session: Session, id: str) -> None:
    """Removes a worker that ends in good order."""
    session.execute(delete(Worker).where(Worker.id == id))


def register_base(session: Session, reference: str, description: BaseDescription) -> None:
    """Records that a worker has loaded the base that the setting `reference` names."""
    digest, values = description.digest, description.to_json()
    try:
        with session.begin_nested():
            session.add(BaseModelRow(name=reference, digest=digest, description=values))
    except IntegrityError:  # the base is recorded already, perhaps by another worker just now
        row = session.get_one(BaseModelRow, reference, with_for_update=True)
        row.digest, row.description = digest, values


def served_base(session: Session, reference: str) -> BaseDescription:
    """Returns the base that the setting `reference` names. Raises BaseNotLoaded until a worker has loaded it, and while
    all live workers hold other bases."""
    row, held = session.get(BaseModelRow, reference), _held_bases(session)
    if row is None or (held and row.digest not in held):
        raise BaseNotLoaded(reference, _base_names(session, held))
    return BaseDescription.from_json(row.description)


def all_hold(session: Session, reference: str) -> bool:
    """Returns whether every live worker that has a base has this one."""
    row = session.get(BaseModelRow, reference)
    return _held_bases(session) <= ({row.digest} if row else set())


def _held_bases(session: Session) -> set[str]:
    return {worker.base_digest for worker in workers(session) if worker.base_digest}


def _base_names(session: Session, digests: Collection[str]) -> list[str]:
    """Returns the names of bases in order; for a base without a name, the beginning of its digest."""
    rows = session.scalars(select(BaseModelRow).where(BaseModelRow.digest.in_(digests)))
    names = {row.digest: row.name for row in rows}
    return sorted(names.get(digest, digest[:12]) for digest in digests)
