"""Audit log: which API key did what, from which address. An entry is added in the transaction of its action, and is
never changed.

Downloads of generated images are not recorded: browsers load them by signed URLs, without an API key.
"""

import datetime
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from core.service import idempotency
from core.service.db.isolation import scope_of
from core.service.db.models import AuditEntry
from core.service.db.paging import Page, PageRequest, fetch_page, storable
from core.service.tracing import current_address, current_request_id

_FAILURES = {"adapter.quarantine", "dataset.upload.fail", "key.refuse"}
"""Actions of requests that fail, which may be repeated with the same idempotency key."""


def record(
    session: Session,
    action: str,
    target: str,
    *,
    tenant_id: str | None = None,
    detail: dict[str, Any] | None = None,
    address: str | None = None,
    request_id: str | None = None,
) -> None:
    """Adds an entry to the audit log, with the session's API key as the actor.

    `address` and `request_id` default to those of the current HTTP request; in a worker, `request_id` defaults to that
    of the request that caused the job, and `address` to None. `tenant_id` defaults to the session's tenant: give it
    where the session is an administrator's or a worker's and the target belongs to a tenant.
    """
    scope = scope_of(session)
    if action not in _FAILURES:
        idempotency.carry_out(session, target)
    session.add(
        AuditEntry(
            tenant_id=tenant_id or scope.tenant_id,
            actor_key_id=scope.key_id,
            action=action,
            target=target,
            detail=detail or {},
            address=address or current_address(),
            request_id=request_id or current_request_id(),
        )
    )


@dataclass(frozen=True)
class AuditFilter:
    """Conditions on audit log entries. None means any."""

    tenant_id: str | None = None
    actor_key_id: str | None = None
    action: str | None = None
    created_after: datetime.datetime | None = None
    created_before: datetime.datetime | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        columns = (AuditEntry.tenant_id, AuditEntry.actor_key_id, AuditEntry.action)
        wanted = (self.tenant_id, self.actor_key_id, self.action)
        conditions = [column == value for column, value in zip(columns, wanted, strict=True) if value is not None]
        if self.created_after is not None:
            conditions.append(AuditEntry.created_at > storable(self.created_after))
        if self.created_before is not None:
            conditions.append(AuditEntry.created_at < storable(self.created_before))
        return conditions


def page(session: Session, wanted: AuditFilter, request: PageRequest) -> Page[AuditEntry]:
    """Returns a page of the audit log entries that match the filter, newest first. Raises InvalidCursor."""
    return fetch_page(session, select(AuditEntry).where(*wanted.conditions()), AuditEntry.id, request)
