"""Idempotency keys: the same POST twice gives the first answer twice."""

import datetime
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, or_
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from core.service.db.models import IdempotencyKey
from core.service.db.session import database_now
from core.service.errors import IdempotencyConflict, IdempotencyMismatch
from core.service.tenancy import Scope

_ABANDONED_AFTER = datetime.timedelta(minutes=5)


@dataclass(frozen=True)
class Answer:
    status_code: int
    body: dict[str, Any] | None


def begin(session: Session, scope: Scope, key: str, digest: str) -> Answer | None:
    """Reserves a caller's key for this request. Returns the first answer when there is one already.

    Raises IdempotencyMismatch when the key came with another request, IdempotencyConflict while the first one runs.
    """
    try:
        with session.begin_nested():
            session.add(IdempotencyKey(scope=_who(scope), tenant_id=scope.tenant_id, key=key, request_digest=digest))
    except IntegrityError:
        pass
    else:
        return None
    row = session.get(IdempotencyKey, (_who(scope), key), with_for_update=True)
    if row is None:
        raise IdempotencyConflict()
    if row.request_digest != digest:
        raise IdempotencyMismatch()
    if row.status_code is not None:
        return Answer(row.status_code, row.body)
    now = database_now(session)
    if now - row.created_at < _ABANDONED_AFTER:
        raise IdempotencyConflict()
    row.created_at = now  # its process was lost before it could answer
    return None


def complete(session: Session, scope: Scope, key: str, answer: Answer) -> None:
    row = session.get(IdempotencyKey, (_who(scope), key))
    if row is not None:
        row.status_code, row.body = answer.status_code, answer.body


def abandon(session: Session, scope: Scope, key: str) -> None:
    """The request failed: its key may be used again."""
    session.execute(delete(IdempotencyKey).where(IdempotencyKey.scope == _who(scope), IdempotencyKey.key == key))


def forget(session: Session, tenant_id: str, domain_id: str) -> None:
    """A domain is deleted: the answers that speak of it go too."""
    body = IdempotencyKey.body
    speaks_of_it = or_(body["id"].as_string() == domain_id, body["domain_id"].as_string() == domain_id)
    session.execute(delete(IdempotencyKey).where(IdempotencyKey.tenant_id == tenant_id, speaks_of_it))


def _who(scope: Scope) -> str:
    return scope.key_id or ""
