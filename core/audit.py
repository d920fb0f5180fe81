"""The audit log: who changed what. Entries are only ever added, in the transaction of the change."""

from typing import Any

from sqlalchemy.orm import Session

from core.db.models import AuditEntry
from core.tenancy import Scope


def record(
    session: Session,
    scope: Scope,
    action: str,
    target: str,
    *,
    tenant_id: str | None = None,
    detail: dict[str, Any] | None = None,
) -> None:
    session.add(
        AuditEntry(
            tenant_id=tenant_id or scope.tenant_id,
            actor_key_id=scope.key_id,
            action=action,
            target=target,
            detail=detail or {},
        )
    )
