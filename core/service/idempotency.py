"""Idempotency keys of the session's API key: the same POST twice gives the first response twice."""

import datetime
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, or_
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from core.service.db.isolation import scope_of
from core.service.db.models import IdempotencyKey
from core.service.db.session import database_now
from core.service.errors import IdempotencyConflict, IdempotencyMismatch

_ABANDONED_AFTER = datetime.timedelta(minutes=5)


@dataclass(frozen=True)
class Answer:
    status_code: int
    body: dict[str, Any] | None


def begin(session: Session, key: str, digest: str) -> Answer | None:
    """Reserves an idempotency key for this request. Returns the first answer when there is one already.

    Raises IdempotencyMismatch when the key came with another request, IdempotencyConflict while the first one runs.
    """
    try:
        with session.begin_nested():
            session.add(
                IdempotencyKey(
                    scope=_actor(session), tenant_id=scope_of(session).tenant_id, key=key, request_digest=digest
                )
            )
    except IntegrityError:
        pass
    else:
        return None
    row = session.get(IdempotencyKey, (_actor(session), key), with_for_update=True)
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


def complete(session: Session, key: str, answer: Answer) -> None:
    row = session.get(IdempotencyKey, (_actor(session), key))
    if row is not None:
        row.status_code, row.body = answer.status_code, answer.body


def abandon(session: Session, key: str) -> None:
    """Frees the key of a request that failed: it may be used again."""
    session.execute(delete(IdempotencyKey).where(IdempotencyKey.scope == _actor(session), IdempotencyKey.key == key))


def forget(session: Session, tenant_id: str, domain_id: str) -> None:
    """Removes the stored answers that contain a domain which is deleted."""
    body = IdempotencyKey.body
    contains_it = or_(body["id"].as_string() == domain_id, body["domain_id"].as_string() == domain_id)
    session.execute(delete(IdempotencyKey).where(IdempotencyKey.tenant_id == tenant_id, contains_it))


def _actor(session: Session) -> str:
    return scope_of(session).key_id or ""
