"""Queries on domains."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.db.models import Domain
from core.db.paging import Page, PageRequest, fetch_page
from core.tenancy import Scope, scoped


def get(session: Session, scope: Scope, id: str, *, lock: bool = False) -> Domain | None:
    statement = scoped(select(Domain), Domain, scope).where(Domain.id == id)
    return session.execute(statement.with_for_update() if lock else statement).scalar_one_or_none()


def by_name(session: Session, scope: Scope, name: str) -> Domain | None:
    return session.execute(scoped(select(Domain), Domain, scope).where(Domain.name == name)).scalar_one_or_none()


def page(session: Session, scope: Scope, request: PageRequest) -> Page[Domain]:
    return fetch_page(session, scoped(select(Domain), Domain, scope), Domain.id, request)
