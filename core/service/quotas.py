"""Quotas of tenants: limits on what a tenant may have at one time, or use per day. Each limit is a setting, unless an
administrator has set another one for the tenant.

A request that uses a quota locks the tenant's quotas until the request's transaction ends, so that concurrent requests
cannot exceed a limit together.
"""

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.artifact.jobs import UNFINISHED
from core.service.config import Settings
from core.service.db.isolation import scope_of
from core.service.db.lookup import find
from core.service.db.models import Dataset, DatasetUpload, Finetune, Generation, StoredBytes, Tenant, UsageDay, Webhook
from core.service.db.session import database_now
from core.service.errors import QuotaExceeded, StorageQuotaExceeded, WebhookQuotaExceeded

RowQuotaName = Literal[
    "queued_generations", "active_finetunes", "validating_datasets", "images_per_day", "stored_bytes", "webhooks"
]
"""Names of the quotas whose usage is counted from database rows."""
QuotaName = Literal[RowQuotaName, "requests_per_minute"]
_DAY = datetime.timedelta(days=1)
_BUSY_SECONDS = 30
"""Seconds in the Retry-After header when a quota of unfinished jobs is used up: by then a job may have ended."""


@dataclass(frozen=True)
class Quota:
    limit: int | None
    """None means unlimited."""
    used: int


class Quotas:
    """Quotas of the session's tenant. The `admit_…` methods raise if a request would exceed a quota, and keep the
    tenant's quotas locked until the transaction ends."""

    def __init__(self, session: Session, settings: Settings) -> None:
        self.session, self.tenant_id = session, scope_of(session).tenant_id
        defaults: dict[QuotaName, int | None] = {
            "requests_per_minute": settings.max_requests_per_minute,
            "queued_generations": settings.max_queued_generations,
            "active_finetunes": settings.max_active_finetunes,
            "validating_datasets": settings.max_validating_datasets,
            "images_per_day": settings.max_images_per_day,
            "stored_bytes": settings.max_stored_bytes,
            "webhooks": settings.max_webhooks,
        }
        tenant = find(session, Tenant, self.tenant_id) if self.tenant_id else None
        own = tenant.quotas if tenant else {}
        self.limits: dict[QuotaName, int | None] = {name: own.get(name, limit) for name, limit in defaults.items()}

    def read(self, requests: int) -> dict[QuotaName, Quota]:
        """Returns the limit and usage of every quota. `requests` is the tenant's number of requests in the current
        minute, which is not in the database."""
        rows: dict[QuotaName, Quota] = {name: Quota(self.limits[name], self._used(name)) for name in _USED}
        return rows | {"requests_per_minute": Quota(self.limits["requests_per_minute"], requests)}

    def hold(self) -> None:
        """Locks the tenant's quotas until the transaction ends; the tenant's other requests wait here for the lock.
        Call it before locking any row: transactions that lock in different orders can deadlock.

        On PostgreSQL it is an advisory lock, since the API's role may not lock the tenant's row. On SQLite nothing is
        locked, since SQLite allows only one writer at a time anyhow.
        """
        if self.session.get_bind().dialect.name == "postgresql":
            key = func.hashtextextended(self.tenant_id, 0)
            self.session.execute(select(func.pg_advisory_xact_lock(key)))

    def admit_generation(self, images: int) -> int:
        """Checks that a generation of `images` images fits into the quota of images per day, which includes the images
        of unfinished generations. Returns the max number of queued generations, for the caller to check. Raises
        QuotaExceeded, StorageQuotaExceeded."""
        self.hold()
        self._admit_results()
        now = database_now(self.session)
        midnight = datetime.datetime.combine(now.date() + _DAY, datetime.time(), now.tzinfo)
        self._admit("images_per_day", images, int((midnight - now).total_seconds()) + 1)
        limit = self.limits["queued_generations"]
        assert limit is not None  # unlike other limits, this setting cannot be None
        return limit

    def admit_finetune(self) -> None:
        """Checks that the tenant may have another queued or running fine-tune. Raises QuotaExceeded,
        StorageQuotaExceeded."""
        self.hold()
        self._admit_results()
        self._admit("active_finetunes", 1, _BUSY_SECONDS)

    def admit_dataset(self, size_bytes: int) -> None:
        """Checks that the tenant may validate another data set, and store its archive of `size_bytes`. Raises
        QuotaExceeded, StorageQuotaExceeded."""
        self.hold()
        self._admit("validating_datasets", 1, _BUSY_SECONDS)
        self._admit_bytes(size_bytes)

    def admit_received_dataset(self) -> None:
        """Re-checks the quotas of data sets and bytes for a completed upload in parts, which already counts towards
        both: the limits may have changed since its start. Raises QuotaExceeded, StorageQuotaExceeded."""
        self.hold()
        self._admit("validating_datasets", 0, _BUSY_SECONDS)
        self._admit_bytes(0)

    def admit_webhook(self) -> None:
        """Checks that the tenant may have another webhook. Raises WebhookQuotaExceeded."""
        self.hold()
        limit = self.limits["webhooks"]
        if limit is not None and self._used("webhooks") >= limit:
            raise WebhookQuotaExceeded(limit)

    def allow_webhooks(self) -> None:
        """Checks that the tenant may use webhooks at all. Raises WebhookQuotaExceeded."""
        if self.limits["webhooks"] == 0:
            raise WebhookQuotaExceeded(0)

    def admit_bytes(self, size_bytes: int) -> None:
        """Checks that the tenant may store `size_bytes` more. Raises StorageQuotaExceeded."""
        self.hold()
        self._admit_bytes(size_bytes)

    def _admit(self, name: RowQuotaName, added: int, retry_after: int) -> None:
        limit = self.limits[name]
        if limit is None:
            return
        used = self._used(name)
        if used + added > limit:
            raise QuotaExceeded(name, limit, used, added, retry_after)

    def _admit_results(self) -> None:
        """Raises StorageQuotaExceeded if the tenant's storage is full, before a worker computes results to store. Their
        size is not known yet, so that the results of accepted jobs may exceed the quota."""
        limit = self.limits["stored_bytes"]
        if limit is not None and (used := self._used("stored_bytes")) >= limit:
            raise StorageQuotaExceeded(limit, used)

    def _admit_bytes(self, size_bytes: int) -> None:
        limit = self.limits["stored_bytes"]
        if limit is None:
            return
        used = self._used("stored_bytes")
        if used + size_bytes > limit:
            raise StorageQuotaExceeded(limit, used, size_bytes)

    def _used(self, name: RowQuotaName) -> int:
        return _USED[name](self.session)


def queued_generations(session: Session) -> int:
    statement = select(func.count()).select_from(Generation)
    return session.execute(statement.where(Generation.status == "queued")).scalar_one()


def active_finetunes(session: Session) -> int:
    """Counts the tenant's queued and running fine-tunes."""
    statement = select(func.count()).select_from(Finetune)
    return session.execute(statement.where(Finetune.status.in_(UNFINISHED))).scalar_one()


def validating_datasets(session: Session) -> int:
    """Counts the tenant's data sets in validation, and its open uploads in parts."""
    checked = select(func.count()).select_from(Dataset).where(Dataset.status == "validating")
    coming = select(func.count()).select_from(DatasetUpload)
    coming = coming.where(DatasetUpload.status == "open")
    return sum(session.execute(statement).scalar_one() for statement in (checked, coming))


def images_today(session: Session) -> int:
    """Counts the tenant's images generated today (UTC), and the images of its queued and running generations."""
    today = database_now(session).date()
    drawn = select(func.sum(UsageDay.images)).where(UsageDay.day == today)
    coming = select(func.sum(Generation.count))
    coming = coming.where(Generation.status.in_(UNFINISHED))
    return sum(int(session.execute(statement).scalar_one() or 0) for statement in (drawn, coming))


def stored_bytes(session: Session) -> int:
    """Returns the tenant's stored bytes, plus the announced bytes of its open uploads in parts."""
    uploads = select(func.sum(DatasetUpload.size_bytes))
    uploads = uploads.where(DatasetUpload.status == "open")
    stored = select(func.sum(StoredBytes.bytes))
    return sum(int(session.execute(statement).scalar_one() or 0) for statement in (stored, uploads))


def webhooks(session: Session) -> int:
    return session.execute(select(func.count()).select_from(Webhook)).scalar_one()


_USED: dict[RowQuotaName, Callable[[Session], int]] = {
    "queued_generations": queued_generations,
    "active_finetunes": active_finetunes,
    "validating_datasets": validating_datasets,
    "images_per_day": images_today,
    "stored_bytes": stored_bytes,
    "webhooks": webhooks,
}
