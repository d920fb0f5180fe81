"""Tenants, their keys, and who a key belongs to."""

import datetime
import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row
from sqlalchemy.orm import Session

from core.artifact.errors import NotFound
from core.service import audit
from core.service.db.base import new_id
from core.service.db.models import ApiKey, Deletion, Tenant
from core.service.db.names import named_once
from core.service.db.paging import Page, PageRequest
from core.service.db.session import database_now
from core.service.deletions import service as deletions
from core.service.errors import KeyRevoked, LastAdminKey, NameTaken, Unauthenticated
from core.service.tenancy import SYSTEM, Scope
from core.service.tenants import repository

TENANT_SCOPES = ("read", "write")
_USE_NOTED_EVERY = datetime.timedelta(minutes=1)
_ID = re.compile("[0-9a-z]{26}")
_FIRST_ADMIN_KEY = "key_00000000000000000000000000"


@dataclass(frozen=True)
class IssuedKey:
    """A new key with its secret, which is shown this once."""

    row: ApiKey
    key: str


def create(session: Session, scope: Scope, name: str) -> Tenant:
    """Raises NameTaken."""
    if repository.by_name(session, name) is not None:
        raise NameTaken("tenant", name)
    tenant = Tenant(id=new_id("ten"), name=name, weight=1.0, quotas={})
    session.add(tenant)
    with named_once(session, "tenant", name):
        session.flush()
    audit.record(session, scope, "tenant.create", tenant.id, tenant_id=tenant.id)
    return tenant


def get(session: Session, id: str) -> Tenant:
    """Raises NotFound."""
    tenant = repository.get(session, id)
    if tenant is None:
        raise NotFound("tenant", id)
    return tenant


def listing(session: Session, request: PageRequest) -> Page[Tenant]:
    return repository.page(session, request)


def change(session: Session, scope: Scope, id: str, changes: dict[str, object]) -> Tenant:
    """Changes name, weight or quotas. Raises NotFound, NameTaken."""
    tenant = get(session, id)
    name = changes.get("name")
    if isinstance(name, str) and name != tenant.name and repository.by_name(session, name) is not None:
        raise NameTaken("tenant", name)
    for field, value in changes.items():
        setattr(tenant, field, value)
    with named_once(session, "tenant", tenant.name):
        session.flush()
    audit.record(session, scope, "tenant.change", id, tenant_id=id, detail=changes)
    return tenant


def delete(session: Session, scope: Scope, id: str) -> Deletion:
    """Deletes a tenant with all it owns; its objects follow, and so do rows where there are very many. Raises
    NotFound."""
    tenant = get(session, id)
    deletion = deletions.record(session, scope, tenant, f"tenants/{id}/")
    deletions.remove(session, deletion, tenant)
    audit.record(session, scope, "tenant.delete", id, tenant_id=id, detail={"deletion": deletion.id})
    return deletion


def issue_key(
    session: Session,
    scope: Scope,
    tenant_id: str,
    name: str,
    scopes: Sequence[str] | None = None,
    lifetime_seconds: int | None = None,
) -> IssuedKey:
    """Issues a new key of a tenant; without a lifetime it is valid until it is revoked. Raises NotFound."""
    get(session, tenant_id)
    expires_at = _after(session, lifetime_seconds)
    return _issue(session, scope, tenant_id, name, list(TENANT_SCOPES if scopes is None else scopes), expires_at)


def keys(session: Session, tenant_id: str, request: PageRequest) -> Page[ApiKey]:
    """Raises NotFound."""
    get(session, tenant_id)
    return repository.keys_of(session, tenant_id, request)


def change_key(session: Session, scope: Scope, id: str, changes: dict[str, Any]) -> ApiKey:
    """Changes a key's `name`, or its end: `lifetime_seconds` from now on, None for no end. Raises NotFound,
    KeyRevoked."""
    key = _living_key(session, id)
    if "name" in changes:
        key.name = changes["name"]
    if "lifetime_seconds" in changes:
        key.expires_at = _after(session, changes["lifetime_seconds"])
    audit.record(session, scope, "key.change", id, tenant_id=key.tenant_id, detail=changes)
    return key


def rotate_key(
    session: Session, scope: Scope, id: str, overlap_seconds: int, lifetime_seconds: int | None = None
) -> IssuedKey:
    """Issues a key that replaces another, which stays valid for the overlap. Raises NotFound, KeyRevoked."""
    old = _living_key(session, id)
    overlap_ends = database_now(session) + datetime.timedelta(seconds=overlap_seconds)
    old.expires_at = min(old.expires_at or overlap_ends, overlap_ends)
    new = _issue(session, scope, old.tenant_id, old.name, list(old.scopes), _after(session, lifetime_seconds))
    detail = {"successor": new.row.id, "overlap_seconds": overlap_seconds}
    audit.record(session, scope, "key.rotate", id, tenant_id=old.tenant_id, detail=detail)
    return new


def revoke_key(session: Session, scope: Scope, id: str) -> None:
    """Revokes a key for good. Raises NotFound, LastAdminKey."""
    key = repository.key(session, id)
    if key is None:
        raise NotFound("key", id)
    if key.tenant_id is None and list(repository.lock_working_admin_keys(session)) == [id]:
        raise LastAdminKey(id)
    session.refresh(key, with_for_update=True)
    key.revoked_at = key.revoked_at or database_now(session)
    audit.record(session, scope, "key.revoke", id, tenant_id=key.tenant_id)


def authenticate(session: Session, token: str) -> Scope:
    """Returns the scope of a key's owner, in a session without a scope. Raises Unauthenticated, with the same error
    whether or not the key exists."""
    key_id, secret = _parse(token)
    key = repository.presented_key(session, key_id)
    matches = hmac.compare_digest(_hash(secret), key.secret_hash if key else _hash(""))
    if key is None or not matches:
        raise Unauthenticated()
    if key.revoked_at is not None or (key.expires_at is not None and key.expires_at <= key.now):
        raise Unauthenticated()
    if key.last_used_at is None or key.now - key.last_used_at > _USE_NOTED_EVERY:
        repository.note_use(session, key.id, key.now)
    return Scope(key.tenant_id, key.id, frozenset(key.scopes), (key.quotas or {}).get("requests_per_minute"))


def id_of(token: str) -> str:
    """Returns the id under which a key is looked up; there may be no key of that id."""
    return _parse(token)[0]


def record_sign_in(session: Session, scope: Scope) -> None:
    """Records that somebody began to use the pages with this key."""
    audit.record(session, scope, "session.create", scope.key)


def record_refused(
    session: Session, scope: Scope, key_id: str, address: str | None, request_id: str, count: int
) -> None:
    """Records that an address presented `count` keys in vain, the first of them as `key_id` in this request."""
    detail = {"count": count}
    audit.record(session, scope, "key.refuse", key_id, detail=detail, address=address, request_id=request_id)


def identity(session: Session, scope: Scope) -> tuple[Row[Any], Tenant | None]:
    """Returns the caller's key, as an ApiKey's columns, and its tenant; None for an administrator's."""
    key = repository.presented_key(session, scope.key_id or "")
    if key is None:
        raise Unauthenticated  # deleted since it was shown
    return key, None if scope.tenant_id is None else get(session, scope.tenant_id)


def ensure_admin_key(session: Session, configured: str | None) -> str | None:
    """Makes the first administrator's key. Returns it when it was made here, to be printed once.

    A newly configured key works, whatever was configured before; one that was revoked stays so.
    """
    if configured is None:
        if repository.any_admin_key(session):
            return None
        return _issue(session, SYSTEM, None, "first admin", ["admin"], None).key
    key = repository.key(session, _FIRST_ADMIN_KEY, lock=True)
    if key is None:
        key = ApiKey(id=_FIRST_ADMIN_KEY, tenant_id=None, name="DIFFFIT_ADMIN_KEY", scopes=["admin"], secret_hash="")
        session.add(key)
    if key.secret_hash != _hash(configured):
        key.secret_hash, key.revoked_at, key.expires_at = _hash(configured), None, None
        audit.record(session, SYSTEM, "key.configure", key.id)
    return None


def _issue(
    session: Session,
    scope: Scope,
    tenant_id: str | None,
    name: str,
    scopes: list[str],
    expires_at: datetime.datetime | None,
) -> IssuedKey:
    id, secret = new_id("key"), secrets.token_urlsafe(32)
    row = ApiKey(id=id, tenant_id=tenant_id, name=name, scopes=scopes, secret_hash=_hash(secret), expires_at=expires_at)
    session.add(row)
    session.flush()
    detail = {"scopes": scopes, "expires_at": expires_at and expires_at.isoformat()}
    audit.record(session, scope, "key.create", id, tenant_id=tenant_id, detail=detail)
    return IssuedKey(row, f"dfk_{id.removeprefix('key_')}_{secret}")


def _living_key(session: Session, id: str) -> ApiKey:
    key = repository.key(session, id, lock=True)
    if key is None:
        raise NotFound("key", id)
    if key.revoked_at is not None:
        raise KeyRevoked(id)
    return key


def _after(session: Session, seconds: int | None) -> datetime.datetime | None:
    return None if seconds is None else database_now(session) + datetime.timedelta(seconds=seconds)


def _parse(token: str) -> tuple[str, str]:
    """Splits a key into its id and its secret. A key that is not in our form can only be the configured
    administrator's."""
    prefix, _, rest = token.partition("_")
    id, _, secret = rest.partition("_")
    if prefix == "dfk" and _ID.fullmatch(id) and secret:
        return f"key_{id}", secret
    return _FIRST_ADMIN_KEY, token


def _hash(secret: str) -> str:
    """Hashes a secret. Secrets are long and random, so that a plain digest cannot be reversed by guessing."""
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()
