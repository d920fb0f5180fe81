"""Tenants, their keys, and who a key belongs to."""

import datetime
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from core import audit
from core.db.base import new_id
from core.db.models import ApiKey, Deletion, Tenant
from core.db.names import named_once
from core.db.paging import Page, PageRequest
from core.db.session import database_now
from core.errors import NameTaken, NotFound, Unauthenticated
from core.tenancy import Scope
from core.tenants import repository

TENANT_SCOPES = ("read", "write")
ADMIN_SCOPES = ("admin",)
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
    """Name, weight or quotas. Raises NotFound, NameTaken."""
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


def delete(session: Session, scope: Scope, id: str) -> None:
    """Deletes a tenant with all it owns; its objects follow. Raises NotFound."""
    tenant = get(session, id)
    session.add(Deletion(id=new_id("del"), prefix=f"tenants/{id}/"))
    session.delete(tenant)
    audit.record(session, scope, "tenant.delete", id)


def issue_key(session: Session, scope: Scope, tenant_id: str, name: str, scopes: Sequence[str] | None) -> IssuedKey:
    """Raises NotFound."""
    get(session, tenant_id)
    issued = _issue(session, tenant_id, name, list(TENANT_SCOPES if scopes is None else scopes))
    audit.record(session, scope, "key.create", issued.row.id, tenant_id=tenant_id)
    return issued


def keys(session: Session, tenant_id: str) -> list[ApiKey]:
    get(session, tenant_id)
    return repository.keys_of(session, tenant_id)


def revoke_key(session: Session, scope: Scope, id: str) -> None:
    """Raises NotFound."""
    key = repository.key(session, id)
    if key is None:
        raise NotFound("key", id)
    key.revoked_at = key.revoked_at or database_now(session)
    audit.record(session, scope, "key.revoke", id, tenant_id=key.tenant_id)


def authenticate(session: Session, token: str) -> Scope:
    """Who a key belongs to. Raises Unauthenticated; the reason does not tell whether the key exists."""
    key_id, secret = _parse(token)
    key = repository.key(session, key_id) if key_id else None
    found = hmac.compare_digest(_hash(secret), key.secret_hash if key else _hash(""))
    now = database_now(session)
    if key is None or not found or key.revoked_at or (key.expires_at and key.expires_at < now):
        raise Unauthenticated()
    if key.last_used_at is None or now - key.last_used_at > datetime.timedelta(minutes=1):
        key.last_used_at = now
    return Scope(tenant_id=key.tenant_id, key_id=key.id, scopes=frozenset(key.scopes))


def ensure_admin_key(session: Session, configured: str | None) -> str | None:
    """Makes the first administrator's key. Returns it when it was made here, to be printed once.

    A configured key always works, whatever was configured before.
    """
    if configured is None:
        return None if repository.any_admin_key(session) else _issue(session, None, "first admin", ["admin"]).key
    key = repository.key(session, _FIRST_ADMIN_KEY)
    if key is None:
        key = ApiKey(id=_FIRST_ADMIN_KEY, tenant_id=None, name="DIFFFIT_ADMIN_KEY", scopes=["admin"])
        session.add(key)
    key.secret_hash = _hash(configured)
    return None


def _issue(session: Session, tenant_id: str | None, name: str, scopes: list[str]) -> IssuedKey:
    id, secret = new_id("key"), secrets.token_urlsafe(32)
    row = ApiKey(id=id, tenant_id=tenant_id, name=name, scopes=scopes, secret_hash=_hash(secret))
    session.add(row)
    session.flush()
    return IssuedKey(row, f"dfk_{id.removeprefix('key_')}_{secret}")


def _parse(token: str) -> tuple[str, str]:
    """The id and the secret of a key. What is not in our form can only be the configured administrator's."""
    prefix, _, rest = token.partition("_")
    id, _, secret = rest.partition("_")
    if prefix == "dfk" and len(id) == 26 and secret:
        return f"key_{id}", secret
    return _FIRST_ADMIN_KEY, token


def _hash(secret: str) -> str:
    """Secrets are long and random, so that a plain digest cannot be reversed by guessing."""
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()
