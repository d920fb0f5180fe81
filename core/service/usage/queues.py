"""Queues of all tenants, for operators: waiting, running and failed jobs."""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.service.db.base import Now
from core.service.db.models import Finetune
from core.service.db.session import database_now
from core.service.jobs import KINDS

RECENTLY = datetime.timedelta(hours=1)


@dataclass(frozen=True)
class Queue:
    name: str
    waiting: int
    running: int
    oldest_seconds: float
    """Age of the oldest job that no worker has claimed; 0 without one."""
    failed: Mapping[str, int]
    """Counts of failures within the last hour, by error code."""


def read(session: Session) -> list[Queue]:
    """Returns every queue, in a session that sees every tenant's rows."""
    now, found = database_now(session), []
    for model, kind in KINDS.items():
        unclaimed = (model.status == kind.waiting) & model.lease_expires_at.is_(None)
        waiting, oldest = session.execute(
            select(func.count(), func.min(model.created_at)).select_from(model).where(unclaimed)
        ).one()
        running = session.execute(
            select(func.count()).select_from(model).where(model.lease_expires_at.is_not(None))
        ).scalar_one()
        failed = session.execute(
            select(func.coalesce(model.error_code, "unknown"), func.count())
            .where(model.status == kind.failed, model.finished_at > now - RECENTLY)
            .group_by(model.error_code)
        )
        seconds = max(0.0, (now - oldest).total_seconds()) if oldest else 0.0
        found.append(Queue(kind.queue, waiting, running, seconds, {str(code): int(count) for code, count in failed}))
    return found


def unkept_seconds(session: Session) -> float:
    """Returns the longest time that a running fine-tune has gone without a checkpoint, in seconds: the work that is
    lost with its worker."""
    since = func.coalesce(Finetune.checkpoint_at, Finetune.started_at)
    oldest, now = session.execute(select(func.min(since), Now()).where(Finetune.lease_expires_at.is_not(None))).one()
    return max(0.0, (now - oldest).total_seconds()) if oldest else 0.0
