"""Metering for billing, and what administrators see of the fleet."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from core.service.config import Settings
from core.service.db.models import AuditEntry, UsageDay, Worker
from core.service.db.models.fleet import WORKER_SILENCE
from core.service.db.paging import Page, PageRequest
from core.service.db.session import database_now
from core.service.tenancy import Scope
from core.service.usage import repository
from core.service.usage.quotas import Quota, QuotaName, Quotas


@dataclass(frozen=True)
class Usage:
    images: int
    row_steps: int
    """Forward rows: one for each image and step, two where it is guided."""
    training_seconds: float
    stored_bytes: int
    quotas: dict[QuotaName, Quota]
    days: Sequence[UsageDay]


def meter(
    session: Session, tenant_id: str, *, images: int = 0, row_steps: int = 0, training_seconds: float = 0.0
) -> None:
    """Adds to the tenant's day."""
    today = database_now(session).date()
    row = repository.day(session, tenant_id, today)
    if row is None:
        try:
            with session.begin_nested():
                session.add(UsageDay(tenant_id=tenant_id, day=today, images=0, row_steps=0, training_seconds=0.0))
        except IntegrityError:
            pass  # another worker has just begun the day
        row = repository.day(session, tenant_id, today)
        assert row is not None
    row.images += images
    row.row_steps += row_steps
    row.training_seconds += training_seconds


def read(session: Session, scope: Scope, settings: Settings, *, requests: int = 0, days: int = 30) -> Usage:
    """Returns total usage, quotas, and the usage of the last `days` days. `requests` is this minute's count."""
    since = database_now(session).date() - datetime.timedelta(days=days)
    images, row_steps, seconds = repository.totals(session, scope)
    quotas = Quotas(session, scope, settings).read(requests)
    stored = quotas["stored_bytes"].used
    return Usage(images, row_steps, seconds, stored, quotas, repository.days(session, scope, since))


def days_of_all(session: Session, scope: Scope, request: PageRequest, *, days: int = 30) -> Page[UsageDay]:
    """Returns a page of every tenant's daily usage, for an administrator. Raises InvalidCursor."""
    since = database_now(session).date() - datetime.timedelta(days=days)
    return repository.days_page(session, scope, since, request)


def workers(session: Session) -> Sequence[Worker]:
    """Returns the live workers, healthy or not."""
    return repository.workers(session, database_now(session) - WORKER_SILENCE)


def held_bases(session: Session) -> set[str]:
    """Returns the digests of the bases that live workers hold."""
    return {worker.base_digest for worker in workers(session) if worker.base_digest}


def workers_page(session: Session, request: PageRequest) -> Page[Worker]:
    """Returns a page of live workers, the latest first. Raises InvalidCursor."""
    return repository.workers_page(session, database_now(session) - WORKER_SILENCE, request)


def audit(session: Session, scope: Scope, tenant_id: str | None, request: PageRequest) -> Page[AuditEntry]:
    return repository.audit_page(session, scope, tenant_id, request)


def residency(session: Session) -> dict[str, list[str]]:
    """Maps an adapter's SHA-256 to the live workers that hold it in their device table."""
    holders: dict[str, list[str]] = {}
    for worker in workers(session):
        for sha256 in worker.resident:
            holders.setdefault(sha256, []).append(worker.id)
    return holders


def report_worker(session: Session, id: str, hostname: str, pid: int, about: dict[str, Any]) -> None:
    """Records a worker's heartbeat; `about` has its device, base_digest, queues and resident adapters."""
    worker = session.get(Worker, id)
    if worker is None:
        worker = Worker(id=id, hostname=hostname, pid=pid)
        session.add(worker)
    for field, value in about.items():
        setattr(worker, field, value)
    worker.heartbeat_at = database_now(session)


def forget_worker(session: Session, id: str) -> None:
    session.execute(delete(Worker).where(Worker.id == id))
