"""Queries on tenants and keys."""

import datetime
from collections.abc import Collection, Sequence
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, String, bindparam, column, func, or_, select, update
from sqlalchemy.orm import Session

from core.service.db.base import Json, Now
from core.service.db.models import ApiKey, Tenant
from core.service.db.paging import Page, PageRequest, fetch_page


def get(session: Session, id: str) -> Tenant | None:
    tenant = session.get(Tenant, id)
    return None if tenant is None or tenant.deleted_at is not None else tenant


def by_name(session: Session, name: str) -> Tenant | None:
    return session.execute(select(Tenant).where(Tenant.name == name)).scalar_one_or_none()


def page(session: Session, request: PageRequest) -> Page[Tenant]:
    return fetch_page(session, select(Tenant).where(Tenant.deleted_at.is_(None)), Tenant.id, request)


def key(session: Session, id: str, *, lock: bool = False) -> ApiKey | None:
    return session.get(ApiKey, id, with_for_update=lock)


def presented_key(session: Session, id: str) -> Row[Any] | None:
    """Returns the key that a caller presents, before its owner is known: an ApiKey's columns, its tenant's `quotas`,
    and the time `now`.

    On PostgreSQL functions find them, since the policies hide them from a transaction without a tenant.
    """
    session.flush()  # as queries on objects do by themselves
    connection = session.connection()
    return connection.execute(_presented_key(connection.dialect.name), {"presented": id}).one_or_none()


@cache
def _presented_key(dialect: str) -> Select[*tuple[Any, ...]]:
    """Builds the query once, and without the mapping to objects: every request runs it."""
    id, now = bindparam("presented", type_=String()), Now().label("now")
    keys, owners = ApiKey.__table__, Tenant.__table__
    if dialect != "postgresql":
        joined = keys.outerjoin(owners, owners.c.id == keys.c.tenant_id)
        return select(*keys.c, owners.c.quotas, now).select_from(joined).where(keys.c.id == id)
    presented = func.api_key_by_id(id).table_valued(*(column(each.name, each.type) for each in keys.c))
    return select(*presented.c, func.tenant_quotas(presented.c.tenant_id, type_=Json).label("quotas"), now)


def note_use(session: Session, id: str, now: datetime.datetime) -> None:
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.note_api_key_use(id)))
    else:
        # By the connection: no tenant is known yet, so that the session's filter would hide the key.
        session.connection().execute(update(ApiKey).where(ApiKey.id == id).values(last_used_at=now))


def keys_of(session: Session, tenant_id: str, request: PageRequest) -> Page[ApiKey]:
    return fetch_page(session, select(ApiKey).where(ApiKey.tenant_id == tenant_id), ApiKey.id, request)


def working_keys(session: Session, ids: Collection[str]) -> Sequence[str]:
    """Returns those keys that are neither revoked nor expired."""
    return session.scalars(select(ApiKey.id).where(ApiKey.id.in_(ids), *_works())).all()


def lock_working_admin_keys(session: Session) -> Sequence[str]:
    """Locks all valid administrators' keys, in one order: two administrators cannot revoke each other's key at the same
    time."""
    statement = select(ApiKey.id).where(ApiKey.tenant_id.is_(None), *_works()).order_by(ApiKey.id)
    return session.scalars(statement.with_for_update()).all()


def _works() -> tuple[ColumnElement[bool], ...]:
    return ApiKey.revoked_at.is_(None), or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > Now())


def any_admin_key(session: Session) -> bool:
    return session.execute(select(ApiKey.id).where(ApiKey.tenant_id.is_(None)).limit(1)).first() is not None
