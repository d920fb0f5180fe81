"""Queries on data sets."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.db.models import Dataset
from core.db.paging import Page, PageRequest, fetch_page
from core.tenancy import Scope, scoped


def get(session: Session, scope: Scope, id: str) -> Dataset | None:
    return session.execute(scoped(select(Dataset), Dataset, scope).where(Dataset.id == id)).scalar_one_or_none()


def page(session: Session, scope: Scope, domain_id: str, request: PageRequest) -> Page[Dataset]:
    statement = scoped(select(Dataset), Dataset, scope).where(Dataset.domain_id == domain_id)
    return fetch_page(session, statement, Dataset.id, request)
