"""The audit log: who did what, from where. Entries are only ever added, in the transaction of what they record.

Drawn images are not recorded when they are read: signed URLs of them are made for browsers.
"""

from typing import Any

from sqlalchemy.orm import Session

from core.service.db.models import AuditEntry
from core.service.tenancy import Scope
from core.service.tracing import current_address, current_request_id


def record(
    session: Session,
    scope: Scope,
    action: str,
    target: str,
    *,
    tenant_id: str | None = None,
    detail: dict[str, Any] | None = None,
    address: str | None = None,
    request_id: str | None = None,
) -> None:
    """Adds an entry. Address and request are those that are being answered, where none are given; a job's entry has the
    request that caused the job. `tenant_id` is the target's owner, where the scope is not that tenant's."""
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
