"""API keys: administrators issue, change and revoke them; every request is authenticated by one."""

import datetime
import hashlib
import hmac
import re
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, String, bindparam, column, func, or_, select, update
from sqlalchemy.orm import Session

from core.service import audit, tenants
from core.service.db.base import Json, Now, new_id
from core.service.db.isolation import scope_of
from core.service.db.lookup import find, require
from core.service.db.models import ApiKey, Tenant
from core.service.db.paging import Page, PageRequest, fetch_page
from core.service.db.session import database_now
from core.service.errors import KeyRevoked, LastAdminKey, Unauthenticated
from core.service.tenancy import Scope

TENANT_SCOPES = ("read", "write")
_USE_NOTED_EVERY = datetime.timedelta(minutes=1)
_ID = re.compile("[0-9a-z]{26}")
_FIRST_ADMIN_KEY = "key_00000000000000000000000000"
_FIRST_KEY_LOCK = 7317
"""Number of the advisory lock; the migrations have 7316."""


@dataclass(frozen=True)
class IssuedKey:
    """A new API key: its row, and the full key with the secret, which cannot be shown again later."""

    row: ApiKey
    key: str


def issue(
    session: Session,
    tenant_id: str,
    name: str,
    scopes: Sequence[str] | None = None,
    lifetime_seconds: int | None = None,
) -> IssuedKey:
    """Creates a tenant's API key. Without `lifetime_seconds` it is valid until it is revoked. Raises NotFound."""
    tenants.get(session, tenant_id, lock=True)  # a deletion of the tenant may be about to delete its keys
    return _issue(session, tenant_id, name, list(TENANT_SCOPES if scopes is None else scopes), lifetime_seconds)


def issue_admin(session: Session, name: str, lifetime_seconds: int | None = None) -> IssuedKey:
    """Creates an administrator's API key. Without `lifetime_seconds` it is valid until it is revoked."""
    return _issue(session, None, name, ["admin"], lifetime_seconds)


def page(session: Session, tenant_id: str | None, request: PageRequest) -> Page[ApiKey]:
    """Returns a page of a tenant's API keys, or with None of the administrators' ones, newest first. Raises NotFound,
    InvalidCursor."""
    if tenant_id is not None:
        tenants.get(session, tenant_id)
    return fetch_page(session, select(ApiKey).where(ApiKey.tenant_id == tenant_id), ApiKey.id, request)


def change(session: Session, id: str, changes: dict[str, Any]) -> ApiKey:
    """Changes an API key's `name`, or makes it expire `lifetime_seconds` from now (None: never). Raises NotFound,
    KeyRevoked, and LastAdminKey if no administrator's key would stay."""
    if changes.get("lifetime_seconds") is not None:
        _check_another_stays(session, id)
    key = _living_key(session, id)
    if "name" in changes:
        key.name = changes["name"]
    if "lifetime_seconds" in changes:
        key.lifetime_seconds = changes["lifetime_seconds"]
        key.expires_at = _after(session, key.lifetime_seconds)
    audit.record(session, "key.change", id, tenant_id=key.tenant_id, detail=changes)
    return key


def rotate(session: Session, id: str, overlap_seconds: int, changes: dict[str, Any]) -> IssuedKey:
    """Creates an API key that replaces the key `id`. The old key stays valid for at most `overlap_seconds`. The new one
    expires after `lifetime_seconds` of `changes` (None: never), or as long after its issue as the old key did. Raises
    NotFound, KeyRevoked, and LastAdminKey if no administrator's key would stay."""
    if changes.get("lifetime_seconds") is not None:
        _check_another_stays(session, id)
    tenant_id = require(session, ApiKey, "key", id).tenant_id
    if tenant_id is not None:
        find(session, Tenant, tenant_id, lock=True)  # before the key, as a deletion of the tenant does
    old = _living_key(session, id)
    overlap_ends = database_now(session) + datetime.timedelta(seconds=overlap_seconds)
    old.expires_at = min(old.expires_at or overlap_ends, overlap_ends)
    lifetime_seconds = changes.get("lifetime_seconds", old.lifetime_seconds)
    new = _issue(session, old.tenant_id, old.name, list(old.scopes), lifetime_seconds)
    detail = {"successor": new.row.id, "overlap_seconds": overlap_seconds}
    audit.record(session, "key.rotate", id, tenant_id=old.tenant_id, detail=detail)
    return new


def revoke(session: Session, id: str) -> None:
    """Revokes an API key permanently. Raises NotFound, or LastAdminKey if no administrator's key would stay."""
    _check_another_stays(session, id)
    key = require(session, ApiKey, "key", id, lock=True)
    key.revoked_at = key.revoked_at or database_now(session)
    audit.record(session, "key.revoke", id, tenant_id=key.tenant_id)


def authenticate(session: Session, token: str) -> Scope:
    """Returns the scope of the caller who presents the API key `token`. The session has no scope yet. Raises
    Unauthenticated, with the same message whether or not the API key exists."""
    key_id, secret = _parse(token)
    key = _presented_key(session, key_id)
    known = hmac.compare_digest(_hash(secret), key.secret_hash if key else _hash(""))
    if key is None or not known:
        raise Unauthenticated()
    if key.revoked_at is not None or (key.expires_at is not None and key.expires_at <= key.now):
        raise Unauthenticated()
    if key.last_used_at is None or key.now - key.last_used_at > _USE_NOTED_EVERY:
        _note_use(session, key.id, key.now)
    return Scope(key.tenant_id, key.id, frozenset(key.scopes), (key.quotas or {}).get("requests_per_minute"))


def working(session: Session, ids: Collection[str]) -> Sequence[str]:
    """Returns the ids, out of `ids`, of API keys that are neither revoked nor expired."""
    return session.scalars(select(ApiKey.id).where(ApiKey.id.in_(ids), *_works())).all()


def id_of(token: str) -> str:
    """Returns the row id that the API key `token` contains. Does not check that such a row exists."""
    return _parse(token)[0]


def record_sign_in(session: Session) -> None:
    """Records in the audit log that somebody signed in to the dashboard with the session's API key."""
    audit.record(session, "session.create", scope_of(session).key)


def record_refused(session: Session, key_id: str, address: str | None, request_id: str, count: int) -> None:
    """Records in the audit log that `count` requests from an address had invalid API keys. `key_id` and `request_id`
    belong to the first of these requests."""
    detail = {"count": count}
    audit.record(session, "key.refuse", key_id, detail=detail, address=address, request_id=request_id)


def identity(session: Session) -> tuple[Row[Any], Tenant | None]:
    """Returns the caller's API key, as a row with the columns of ApiKey, and the caller's tenant (None for an
    administrator). Raises Unauthenticated when the API key has been deleted since the request was authenticated."""
    scope = scope_of(session)
    key = _presented_key(session, scope.key_id or "")
    if key is None:
        raise Unauthenticated  # deleted since the request was authenticated
    return key, None if scope.tenant_id is None else tenants.get(session, scope.tenant_id)


def ensure_admin_key(session: Session, configured: str | None) -> str | None:
    """Ensures that there is an administrator's API key. `configured` is the key from the settings, if there is one.

    Without a configured key, creates one if no administrator has one that works, and returns it, to be printed once;
    otherwise returns None. A configured key that differs from the one configured before replaces it; an unchanged
    configured key that was revoked stays revoked. Processes that start together do this one after the other.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock(_FIRST_KEY_LOCK)))
    if configured is None:
        if _any_admin_key(session):
            return None
        return issue_admin(session, "first admin").key
    key = find(session, ApiKey, _FIRST_ADMIN_KEY, lock=True)
    if key is None:
        key = ApiKey(id=_FIRST_ADMIN_KEY, tenant_id=None, name="DIFFFIT_ADMIN_KEY", scopes=["admin"], secret_hash="")
        session.add(key)
    if key.secret_hash != _hash(configured):
        key.secret_hash, key.revoked_at = _hash(configured), None
        key.expires_at = key.lifetime_seconds = None
        audit.record(session, "key.configure", key.id)
    return None


def _issue(
    session: Session,
    tenant_id: str | None,
    name: str,
    scopes: list[str],
    lifetime_seconds: int | None,
) -> IssuedKey:
    id, secret = new_id("key"), secrets.token_urlsafe(32)
    expires_at = _after(session, lifetime_seconds)
    row = ApiKey(id=id, tenant_id=tenant_id, name=name, scopes=scopes, secret_hash=_hash(secret))
    row.expires_at, row.lifetime_seconds = expires_at, lifetime_seconds
    session.add(row)
    session.flush()
    detail = {"scopes": scopes, "expires_at": expires_at and expires_at.isoformat()}
    audit.record(session, "key.create", id, tenant_id=tenant_id, detail=detail)
    return IssuedKey(row, f"dfk_{id.removeprefix('key_')}_{secret}")


def _living_key(session: Session, id: str) -> ApiKey:
    key = require(session, ApiKey, "key", id, lock=True)
    if key.revoked_at is not None:
        raise KeyRevoked(id)
    return key


def _after(session: Session, seconds: int | None) -> datetime.datetime | None:
    return None if seconds is None else database_now(session) + datetime.timedelta(seconds=seconds)


def _parse(token: str) -> tuple[str, str]:
    """Splits an API key into the id of its row and its secret. An API key without the form `dfk_<id>_<secret>` can only
    be the administrator's key from the settings, whose row has the id `_FIRST_ADMIN_KEY`."""
    prefix, _, rest = token.partition("_")
    id, _, secret = rest.partition("_")
    if prefix == "dfk" and _ID.fullmatch(id) and secret:
        return f"key_{id}", secret
    return _FIRST_ADMIN_KEY, token


def _hash(secret: str) -> str:
    """Returns the SHA-256 of an API key's secret. Secrets are long and random, so an unsalted hash is safe."""
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()


def _presented_key(session: Session, id: str) -> Row[Any] | None:
    """Returns the API key with this id, whichever tenant owns it: a row with the columns of ApiKey, the tenant's
    `quotas`, and the time `now`; None if there is no such API key.

    On PostgreSQL, SQL functions of the migrations read both tables, since row-level security hides all rows from a
    transaction whose tenant is not known yet.
    """
    session.flush()  # unlike ORM queries, statements on the connection do not flush by themselves
    connection = session.connection()
    return connection.execute(_presented_key_statement(connection.dialect.name), {"presented": id}).one_or_none()


@cache
def _presented_key_statement(dialect: str) -> Select[*tuple[Any, ...]]:
    """Returns the query of `_presented_key` for a database dialect. Since every request runs this query, it is built
    once per process, and selects columns instead of ORM objects."""
    id, now = bindparam("presented", type_=String()), Now().label("now")
    keys, owners = ApiKey.__table__, Tenant.__table__
    if dialect != "postgresql":
        joined = keys.outerjoin(owners, owners.c.id == keys.c.tenant_id)
        return select(*keys.c, owners.c.quotas, now).select_from(joined).where(keys.c.id == id)
    presented = func.api_key_by_id(id).table_valued(*(column(each.name, each.type) for each in keys.c))
    return select(*presented.c, func.tenant_quotas(presented.c.tenant_id, type_=Json).label("quotas"), now)


def _note_use(session: Session, id: str, now: datetime.datetime) -> None:
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.note_api_key_use(id)))
    else:
        # Executes on the connection: the session's filter hides every API key as long as the tenant is not known.
        session.connection().execute(update(ApiKey).where(ApiKey.id == id).values(last_used_at=now))


def _check_another_stays(session: Session, id: str) -> None:
    """Raises LastAdminKey if the API key `id` is the last one of an administrator that works and never expires, or the
    last one that works if all of them expire; NotFound if it does not exist. Otherwise the key may end.

    Locks all of these keys, so that two administrators cannot end each other's key at the same time; the fixed order of
    the locks avoids deadlocks."""
    if require(session, ApiKey, "key", id).tenant_id is not None:
        return
    statement = select(ApiKey.id, ApiKey.expires_at).where(ApiKey.tenant_id.is_(None), *_works()).order_by(ApiKey.id)
    working = session.execute(statement.with_for_update()).all()
    lasting = [key for key in working if key.expires_at is None] or working
    if [key.id for key in lasting] == [id]:
        raise LastAdminKey(id)


def _works() -> tuple[ColumnElement[bool], ...]:
    return ApiKey.revoked_at.is_(None), or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > Now())


def _any_admin_key(session: Session) -> bool:
    return session.execute(select(ApiKey.id).where(ApiKey.tenant_id.is_(None), *_works()).limit(1)).first() is not None
