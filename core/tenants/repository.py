"""Queries on tenants and keys."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.db.models import ApiKey, Tenant
from core.db.paging import Page, PageRequest, fetch_page


def get(session: Session, id: str) -> Tenant | None:
    return session.get(Tenant, id)


def by_name(session: Session, name: str) -> Tenant | None:
    return session.execute(select(Tenant).where(Tenant.name == name)).scalar_one_or_none()


def page(session: Session, request: PageRequest) -> Page[Tenant]:
    return fetch_page(session, select(Tenant), Tenant.id, request)


def key(session: Session, id: str) -> ApiKey | None:
    return session.get(ApiKey, id)


def keys_of(session: Session, tenant_id: str) -> list[ApiKey]:
    statement = select(ApiKey).where(ApiKey.tenant_id == tenant_id).order_by(ApiKey.id.desc())
    return list(session.execute(statement).scalars())


def any_admin_key(session: Session) -> bool:
    return session.execute(select(ApiKey.id).where(ApiKey.tenant_id.is_(None)).limit(1)).first() is not None
