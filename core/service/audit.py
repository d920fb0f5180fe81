"""The audit log: actor, action and address. Entries are only added, in the transaction of the action.

Reads of generated images are not recorded: browsers read them by signed URLs.
"""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.service.db.isolation import scope_of
from core.service.db.models import AuditEntry
from core.service.db.paging import Page, PageRequest, fetch_page
from core.service.tracing import current_address, current_request_id


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
    """Adds an entry, whose actor is the session's key. The defaults of `address` and `request_id` are those of the
    request that is being answered; in a worker, of the request that caused the job. `tenant_id` is the target's owner,
    where the session's scope is not that tenant's."""
    scope = scope_of(session)
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


def page(session: Session, tenant_id: str | None, request: PageRequest) -> Page[AuditEntry]:
    """Returns a page of entries, newest first: of every tenant, unless `tenant_id` names one. Raises InvalidCursor."""
    statement = select(AuditEntry)
    if tenant_id is not None:
        statement = statement.where(AuditEntry.tenant_id == tenant_id)
    return fetch_page(session, statement, AuditEntry.id, request)
