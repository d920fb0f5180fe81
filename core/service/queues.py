"""Counts of waiting, running and failed jobs of all tenants by queue, for administrators and Prometheus."""

import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.service.db.base import Now
from core.service.db.models import Finetune
from core.service.db.session import database_now
from core.service.jobs import KINDS, Kind

_RECENTLY = datetime.timedelta(hours=1)


@dataclass(frozen=True)
class Queue:
    """Job counts of one queue."""

    queue: str
    waiting: int
    running: int
    oldest_waiting_at: datetime.datetime | None

    def waited_seconds(self, now: datetime.datetime) -> float:
        """Returns the age in seconds of the oldest waiting job, or 0 if no job waits."""
        return max(0.0, (now - self.oldest_waiting_at).total_seconds()) if self.oldest_waiting_at else 0.0


def read(session: Session) -> list[Queue]:
    """Returns the job counts of every queue. The session must see every tenant's rows."""
    return [_queue(session, model, kind) for model, kind in KINDS.items()]


def recent_failures(session: Session) -> Iterator[tuple[str, str, int]]:
    """Yields (queue, error code, number of jobs) for the jobs that failed within the last hour."""
    since = database_now(session) - _RECENTLY
    for model, kind in KINDS.items():
        failed = (
            select(func.coalesce(model.error_code, "unknown"), func.count())
            .where(model.status == kind.failed, model.finished_at > since)
            .group_by(model.error_code)
        )
        for code, count in session.execute(failed):
            yield kind.queue, code, count


def unkept_seconds(session: Session) -> float:
    """Returns the longest time in seconds, over all running fine-tunes, since the last checkpoint or else the start.
    This much training would be repeated if the fine-tune's worker crashed now."""
    since = func.coalesce(Finetune.checkpoint_at, Finetune.started_at)
    oldest, now = session.execute(select(func.min(since), Now()).where(Finetune.lease_expires_at.is_not(None))).one()
    return max(0.0, (now - oldest).total_seconds()) if oldest else 0.0


def _queue(session: Session, model: type[Any], kind: Kind) -> Queue:
    is_waiting = (model.status == kind.waiting) & model.lease_expires_at.is_(None)
    # Two queries, so that ended jobs, most of the table, are never read.
    waiting, oldest = session.execute(select(func.count(), func.min(model.created_at)).where(is_waiting)).one()
    running = session.execute(select(func.count()).where(model.lease_expires_at.is_not(None))).scalar_one()
    return Queue(kind.queue, waiting, running, oldest)
