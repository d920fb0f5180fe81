"""Quotas of a tenant: what it may have at once, and use in a day. Each is a setting for all, unless the tenant has its
own limit.

A request that adds something holds the tenant's quotas until it is committed, so that parallel ones cannot pass
together.
"""

import datetime
from dataclasses import dataclass
from typing import Literal, get_args

from sqlalchemy.orm import Session

from core.service.config import Settings
from core.service.db.session import database_now
from core.service.errors import QuotaExceeded, StorageQuotaExceeded, WebhookQuotaExceeded
from core.service.tenancy import Scope
from core.service.tenants import repository as tenants
from core.service.usage import repository

RowQuotaName = Literal[
    "queued_generations", "active_finetunes", "validating_datasets", "images_per_day", "stored_bytes", "webhooks"
]
"""Quotas whose use is counted from database rows."""
QuotaName = Literal[RowQuotaName, "requests_per_minute"]
_DAY = datetime.timedelta(days=1)
_BUSY_SECONDS = 30
"""Seconds after which a running job may have ended, for Retry-After."""


@dataclass(frozen=True)
class Quota:
    limit: int | None
    """None means unlimited."""
    used: int


class Quotas:
    """Quotas of the calling tenant, in one transaction."""

    def __init__(self, session: Session, scope: Scope, settings: Settings) -> None:
        self.session, self.scope = session, scope
        defaults: dict[QuotaName, int | None] = {
            "requests_per_minute": settings.max_requests_per_minute,
            "queued_generations": settings.max_queued_generations,
            "active_finetunes": settings.max_active_finetunes,
            "validating_datasets": settings.max_validating_datasets,
            "images_per_day": settings.max_images_per_day,
            "stored_bytes": settings.max_stored_bytes,
            "webhooks": settings.max_webhooks,
        }
        tenant = tenants.get(session, scope.tenant_id) if scope.tenant_id else None
        own = tenant.quotas if tenant else {}
        self.limits: dict[QuotaName, int | None] = {name: own.get(name, limit) for name, limit in defaults.items()}

    def read(self, requests: int) -> dict[QuotaName, Quota]:
        """Returns every quota with its use. `requests` is this minute's count, which no database row has."""
        found: dict[QuotaName, Quota] = {
            name: Quota(self.limits[name], self._used(name)) for name in get_args(RowQuotaName)
        }
        return found | {"requests_per_minute": Quota(self.limits["requests_per_minute"], requests)}

    def hold(self) -> None:
        """Locks the tenant's quotas: its other requests wait here until this transaction ends."""
        repository.lock_tenant(self.session, self.scope)

    def admit_generation(self, images: int) -> int:
        """Checks the quota of images per day, those of unfinished generations included, and returns how many
        generations may wait. Raises QuotaExceeded."""
        self.hold()
        now = database_now(self.session)
        midnight = datetime.datetime.combine(now.date() + _DAY, datetime.time(), now.tzinfo)
        self._admit("images_per_day", images, int((midnight - now).total_seconds()) + 1)
        limit = self.limits["queued_generations"]
        assert limit is not None  # the setting is a number
        return limit

    def admit_finetune(self) -> None:
        """Raises QuotaExceeded."""
        self.hold()
        self._admit("active_finetunes", 1, _BUSY_SECONDS)

    def admit_dataset(self, size_bytes: int) -> None:
        """Raises QuotaExceeded, StorageQuotaExceeded."""
        self.hold()
        self._admit("validating_datasets", 1, _BUSY_SECONDS)
        self._admit_bytes(size_bytes)

    def admit_received_dataset(self) -> None:
        """Re-checks quotas for an upload whose bytes are already reserved; limits may have changed since. Raises
        QuotaExceeded, StorageQuotaExceeded."""
        self.hold()
        self._admit("validating_datasets", 0, _BUSY_SECONDS)
        self._admit_bytes(0)

    def admit_webhook(self) -> None:
        """Raises WebhookQuotaExceeded."""
        self.hold()
        limit = self.limits["webhooks"]
        if limit is not None and self._used("webhooks") >= limit:
            raise WebhookQuotaExceeded(limit)

    def admit_bytes(self, size_bytes: int) -> None:
        """Raises StorageQuotaExceeded."""
        self.hold()
        self._admit_bytes(size_bytes)

    def _admit(self, name: RowQuotaName, added: int, retry_after: int) -> None:
        limit = self.limits[name]
        if limit is None:
            return
        used = self._used(name)
        if used + added > limit:
            raise QuotaExceeded(name, limit, used, retry_after)

    def _admit_bytes(self, size_bytes: int) -> None:
        limit = self.limits["stored_bytes"]
        if limit is None:
            return
        used = self._used("stored_bytes")
        if used + size_bytes > limit:
            raise StorageQuotaExceeded(limit, used, size_bytes)

    def _used(self, name: RowQuotaName) -> int:
        match name:
            case "queued_generations":
                return repository.queued_generations(self.session, self.scope)
            case "active_finetunes":
                return repository.active_finetunes(self.session, self.scope)
            case "validating_datasets":
                return repository.validating_datasets(self.session, self.scope)
            case "images_per_day":
                return repository.images_per_day(self.session, self.scope, database_now(self.session).date())
            case "stored_bytes":
                return repository.stored_bytes(self.session, self.scope)
            case "webhooks":
                return repository.webhooks(self.session, self.scope)
