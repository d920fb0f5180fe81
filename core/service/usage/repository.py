"""Queries on usage, the fleet and the audit log."""

import datetime
from collections.abc import Sequence

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session

from core.service.db.models import (
    AuditEntry,
    Dataset,
    DatasetUpload,
    Finetune,
    Generation,
    StoredBytes,
    Tenant,
    UsageDay,
    Webhook,
    Worker,
)
from core.service.db.paging import Page, PageRequest, fetch_page, id_of, page_of
from core.service.errors import InvalidCursor
from core.service.tenancy import Scope, scoped


def day(session: Session, tenant_id: str, date: datetime.date) -> UsageDay | None:
    statement = scoped(select(UsageDay), UsageDay, Scope(tenant_id)).where(UsageDay.day == date)
    return session.execute(statement.with_for_update()).scalar_one_or_none()


def days(session: Session, scope: Scope, since: datetime.date) -> Sequence[UsageDay]:
    statement = scoped(select(UsageDay), UsageDay, scope).where(UsageDay.day >= since)
    return session.execute(statement.order_by(UsageDay.day.desc(), UsageDay.tenant_id)).scalars().all()


def days_page(session: Session, scope: Scope, since: datetime.date, request: PageRequest) -> Page[UsageDay]:
    """Returns a page of usage by day and tenant, the newest day first. Raises InvalidCursor."""
    statement = scoped(select(UsageDay), UsageDay, scope).where(UsageDay.day >= since)
    if request.cursor is not None:
        day, tenant_id = _day_and_tenant(request.cursor)
        statement = statement.where(or_(UsageDay.day < day, and_(UsageDay.day == day, UsageDay.tenant_id > tenant_id)))
    statement = statement.order_by(UsageDay.day.desc(), UsageDay.tenant_id).limit(request.limit + 1)
    rows = list(session.execute(statement).scalars())
    return page_of(rows, request, lambda row: f"{row.day}.{row.tenant_id}")


def _day_and_tenant(cursor: str) -> tuple[datetime.date, str]:
    day, _, tenant_id = cursor.partition(".")
    try:
        return datetime.date.fromisoformat(day), id_of(tenant_id, Tenant)
    except ValueError as error:
        raise InvalidCursor from error


def totals(session: Session, scope: Scope) -> tuple[int, int, float]:
    columns = (func.sum(UsageDay.images), func.sum(UsageDay.row_steps), func.sum(UsageDay.training_seconds))
    images, row_steps, seconds = session.execute(scoped(select(*columns), UsageDay, scope)).one()
    return int(images or 0), int(row_steps or 0), float(seconds or 0.0)


def workers(session: Session, since: datetime.datetime) -> Sequence[Worker]:
    return session.execute(select(Worker).where(Worker.heartbeat_at >= since).order_by(Worker.id)).scalars().all()


def workers_page(session: Session, since: datetime.datetime, request: PageRequest) -> Page[Worker]:
    return fetch_page(session, select(Worker).where(Worker.heartbeat_at >= since), Worker.id, request)


def audit_page(session: Session, scope: Scope, tenant_id: str | None, request: PageRequest) -> Page[AuditEntry]:
    statement = scoped(select(AuditEntry), AuditEntry, scope)
    if tenant_id is not None:
        statement = statement.where(AuditEntry.tenant_id == tenant_id)
    return fetch_page(session, statement, AuditEntry.id, request)


def lock_tenant(session: Session, scope: Scope) -> None:
    """Locks the tenant's quotas until the transaction ends. SQLite has one writer anyhow; on PostgreSQL a tenant may
    not lock its own row, so this is an advisory lock."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(scope.tenant_id, 0))))


def queued_generations(session: Session, scope: Scope) -> int:
    statement = scoped(select(func.count()).select_from(Generation), Generation, scope)
    return session.execute(statement.where(Generation.status == "queued")).scalar_one()


def active_finetunes(session: Session, scope: Scope) -> int:
    """Counts queued and running fine-tunes."""
    statement = scoped(select(func.count()).select_from(Finetune), Finetune, scope)
    return session.execute(statement.where(Finetune.status.in_(("queued", "running")))).scalar_one()


def validating_datasets(session: Session, scope: Scope) -> int:
    """Counts data sets in validation, open uploads in parts included."""
    checked = scoped(select(func.count()).select_from(Dataset), Dataset, scope).where(Dataset.status == "validating")
    coming = scoped(select(func.count()).select_from(DatasetUpload), DatasetUpload, scope)
    coming = coming.where(DatasetUpload.status == "open")
    return sum(int(session.execute(statement).scalar_one()) for statement in (checked, coming))


def images_per_day(session: Session, scope: Scope, date: datetime.date) -> int:
    """Counts images generated on that day, and those of queued and running generations."""
    drawn = scoped(select(func.sum(UsageDay.images)), UsageDay, scope).where(UsageDay.day == date)
    coming = scoped(select(func.sum(Generation.count)), Generation, scope)
    coming = coming.where(Generation.status.in_(("queued", "running")))
    return sum(int(session.execute(statement).scalar_one() or 0) for statement in (drawn, coming))


def stored_bytes(session: Session, scope: Scope) -> int:
    """Returns the bytes of all objects that database rows name, and the announced bytes of open uploads in parts."""
    uploads = scoped(select(func.sum(DatasetUpload.size_bytes)), DatasetUpload, scope)
    uploads = uploads.where(DatasetUpload.status == "open")
    stored = scoped(select(func.sum(StoredBytes.bytes)), StoredBytes, scope)
    return sum(int(session.execute(statement).scalar_one() or 0) for statement in (stored, uploads))


def webhooks(session: Session, scope: Scope) -> int:
    return session.execute(scoped(select(func.count()).select_from(Webhook), Webhook, scope)).scalar_one()
