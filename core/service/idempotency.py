"""Idempotency keys of POST requests: a repeated request gets the stored response of the first one. Each API key has its
own idempotency keys."""

import datetime
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Update, delete, or_, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from core.service.db.isolation import scope_of
from core.service.db.models import IdempotencyKey
from core.service.db.session import database_now
from core.service.errors import IdempotencyConflict, IdempotencyMismatch, ResponseLost

_ABANDONED_AFTER = datetime.timedelta(minutes=5)


@dataclass(frozen=True)
class Answer:
    status_code: int
    body: dict[str, Any] | None


def begin(session: Session, key: str, digest: str) -> Answer | None:
    """Reserves an idempotency key for a request with this digest, and returns None. If the same request was answered
    before, returns the stored response instead.

    Raises IdempotencyMismatch when the idempotency key was used with a different request, IdempotencyConflict while the
    first request is still running, and ResponseLost if that was carried out but ended before it stored its response.
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
    if row.target is not None:
        if row.body is None:
            raise ResponseLost(row.target)
        return Answer(202, row.body)
    row.created_at = now  # the first request's process was lost before its response: this request runs instead
    return None


def carry_out(session: Session, target: str) -> None:
    """Records, in the transaction of a request with an idempotency key, that the request creates or changes the object
    `target`, so that the request is never run again."""
    if (key := scope_of(session).idempotency_key) is not None:
        with session.no_autoflush:
            session.execute(_update(session, key).values(target=target))


def keep(session: Session, key: str, answer: Answer) -> None:
    """Stores the body of a response with status 202 to a request that goes on. It is replayed if the request's process
    is lost."""
    session.execute(_update(session, key).values(body=answer.body))


def complete(session: Session, key: str, answer: Answer) -> None:
    """Stores the response of a request, in place of an earlier one."""
    body = answer.body or {}
    indexed = {"object_id": body.get("id"), "object_domain_id": body.get("domain_id")}
    session.execute(_update(session, key).values(status_code=answer.status_code, body=answer.body, **indexed))


def abandon(session: Session, key: str) -> None:
    """Deletes the idempotency key of a failed request that changed nothing, so that a retry with the same key runs the
    request again."""
    unused = IdempotencyKey.target.is_(None)
    session.execute(
        delete(IdempotencyKey).where(IdempotencyKey.scope == _actor(session), IdempotencyKey.key == key, unused)
    )


def forget(session: Session, tenant_id: str, id: str) -> None:
    """Deletes the idempotency keys of a tenant whose stored responses contain the object with this id, such as a
    domain, which is being deleted: as their object, its domain, or one of their list."""
    row, body = IdempotencyKey, IdempotencyKey.body
    is_listed = body["data"].as_string().contains(f'"{id}"', autoescape=True)
    contains_it = or_(body["id"].as_string() == id, body["domain_id"].as_string() == id, is_listed)
    # One statement for each index, since SQLite would read all of the tenant's responses for a joint one.
    for condition in (row.object_id == id, row.object_domain_id == id, row.object_id.is_(None) & contains_it):
        session.execute(delete(row).where(row.tenant_id == tenant_id, condition))


def _update(session: Session, key: str) -> Update:
    statement = update(IdempotencyKey).where(IdempotencyKey.scope == _actor(session), IdempotencyKey.key == key)
    return statement.execution_options(synchronize_session=False)


def _actor(session: Session) -> str:
    return scope_of(session).key_id or ""
