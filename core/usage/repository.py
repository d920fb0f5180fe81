"""Queries on usage, the fleet and the audit log."""

import datetime
from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.db.models import AuditEntry, UsageDay, Worker
from core.db.paging import Page, PageRequest, fetch_page
from core.tenancy import Scope, scoped


def day(session: Session, tenant_id: str, date: datetime.date) -> UsageDay | None:
    statement = scoped(select(UsageDay), UsageDay, Scope(tenant_id)).where(UsageDay.day == date)
    return session.execute(statement.with_for_update()).scalar_one_or_none()


def days(session: Session, scope: Scope, since: datetime.date) -> Sequence[UsageDay]:
    statement = scoped(select(UsageDay), UsageDay, scope).where(UsageDay.day >= since)
    return session.execute(statement.order_by(UsageDay.day.desc(), UsageDay.tenant_id)).scalars().all()


def totals(session: Session, scope: Scope) -> tuple[int, int, float]:
    columns = (func.sum(UsageDay.images), func.sum(UsageDay.row_steps), func.sum(UsageDay.training_seconds))
    images, row_steps, seconds = session.execute(scoped(select(*columns), UsageDay, scope)).one()
    return int(images or 0), int(row_steps or 0), float(seconds or 0.0)


def workers(session: Session, since: datetime.datetime) -> Sequence[Worker]:
    return session.execute(select(Worker).where(Worker.heartbeat_at >= since).order_by(Worker.id)).scalars().all()


def audit_page(session: Session, scope: Scope, tenant_id: str | None, request: PageRequest) -> Page[AuditEntry]:
    statement = scoped(select(AuditEntry), AuditEntry, scope)
    if tenant_id is not None:
        statement = statement.where(AuditEntry.tenant_id == tenant_id)
    return fetch_page(session, statement, AuditEntry.id, request)
