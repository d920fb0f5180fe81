"""Queries on domains."""

from collections.abc import Sequence

from sqlalchemy import select, tuple_
from sqlalchemy.orm import Session

from core.service.db.models import Domain, Generation
from core.service.db.paging import Page, PageRequest, fetch_page
from core.service.tenancy import Scope, scoped


def get(session: Session, scope: Scope, id: str, *, lock: bool = False) -> Domain | None:
    statement = scoped(select(Domain), Domain, scope).where(Domain.id == id, Domain.deleted_at.is_(None))
    return session.execute(statement.with_for_update() if lock else statement).scalar_one_or_none()


def by_name(session: Session, scope: Scope, name: str) -> Domain | None:
    return session.execute(scoped(select(Domain), Domain, scope).where(Domain.name == name)).scalar_one_or_none()


def page(session: Session, scope: Scope, request: PageRequest) -> Page[Domain]:
    statement = scoped(select(Domain), Domain, scope).where(Domain.deleted_at.is_(None))
    return fetch_page(session, statement, Domain.id, request)


def latest_drawings(session: Session, scope: Scope, ids: Sequence[str]) -> dict[str, str]:
    """Returns the id of each domain's newest successful generation by an adapter. Leaves out domains without one."""
    # Uses a range of the index instead of `domain_id = …`: with equality PostgreSQL may scan all generations by
    # their id until it meets one of this domain.
    place = tuple_(Generation.domain_id, Generation.id)
    newest = (
        scoped(select(Generation.id), Generation, scope)
        .where(place > tuple_(Domain.id, ""), place < tuple_(Domain.id, "h"), Generation.expired_at.is_(None))
        .where(Generation.status == "succeeded", Generation.adapter_id.is_not(None))
        .order_by(Generation.domain_id.desc(), Generation.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    latest = session.execute(scoped(select(Domain.id, newest), Domain, scope).where(Domain.id.in_(ids)))
    return {domain: generation for domain, generation in latest if generation is not None}
