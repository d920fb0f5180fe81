"""Queries on adapters."""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.service.db.models import Adapter
from core.service.db.paging import Page, PageRequest, fetch_page
from core.service.tenancy import Scope, Statement, scoped


@dataclass(frozen=True)
class Filters:
    tenant_id: str | None = None
    domain_id: str | None = None
    base_digest: str | None = None
    status: str | None = None


def get(session: Session, scope: Scope, id: str) -> Adapter | None:
    return session.execute(scoped(select(Adapter), Adapter, scope).where(Adapter.id == id)).scalar_one_or_none()


def page_of_domain(session: Session, scope: Scope, domain_id: str, request: PageRequest) -> Page[Adapter]:
    statement = scoped(select(Adapter), Adapter, scope).where(Adapter.domain_id == domain_id)
    return fetch_page(session, statement, Adapter.id, request)


def page_of_all(session: Session, scope: Scope, filters: Filters, request: PageRequest) -> Page[Adapter]:
    return fetch_page(session, _filtered(scoped(select(Adapter), Adapter, scope), filters), Adapter.id, request)


def stored(session: Session, scope: Scope, digests: Collection[str]) -> set[str]:
    """Returns those digests that some adapter in the database has."""
    statement = scoped(select(Adapter.sha256), Adapter, scope).where(Adapter.sha256.in_(digests))
    return set(session.execute(statement.distinct()).scalars())


def totals(session: Session, scope: Scope, filters: Filters) -> tuple[int, int, int, int]:
    """Returns the counts of adapters, tenants and domains, and the adapters' total bytes."""
    columns = (
        func.count(),
        func.count(Adapter.tenant_id.distinct()),
        func.count(Adapter.domain_id.distinct()),
        func.coalesce(func.sum(Adapter.size_bytes), 0),
    )
    adapters, tenants, domains, size = session.execute(
        _filtered(scoped(select(*columns).select_from(Adapter), Adapter, scope), filters)
    ).one()
    return adapters, tenants, domains, int(size)


def _filtered(statement: Statement, filters: Filters) -> Statement:
    for column in ("tenant_id", "domain_id", "base_digest", "status"):
        value = getattr(filters, column)
        if value is not None:
            statement = statement.where(getattr(Adapter, column) == value)
    return statement
