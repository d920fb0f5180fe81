"""Counts of waiting and running jobs, for administrators."""

import datetime
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, func, select
from sqlalchemy.orm import Session

from core.service.jobs.rows import KINDS, Kind


@dataclass(frozen=True)
class Queue:
    """Job counts of one queue."""

    queue: str
    waiting: int
    running: int
    oldest_waiting_at: datetime.datetime | None


def queues(session: Session) -> list[Queue]:
    """Counts every tenant's rows, for an administrator."""
    return [_queue(session, model, kind) for model, kind in KINDS.items()]


def _queue(session: Session, model: type[Any], kind: Kind) -> Queue:
    is_held = model.lease_expires_at.is_not(None)
    waits = and_(model.status == kind.waiting, model.lease_expires_at.is_(None))
    # Two queries, so that ended jobs, most of the table, are never read.
    waiting, oldest = session.execute(select(func.count(), func.min(model.created_at)).where(waits)).one()
    running = session.execute(select(func.count()).select_from(model).where(is_held)).scalar_one()
    return Queue(kind.queue, waiting, running, oldest)
