"""Queries on data sets and their uploads."""

import datetime
from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.db.models import Dataset, DatasetUpload
from core.db.paging import Page, PageRequest, fetch_page
from core.tenancy import SYSTEM, Scope, scoped


def get(session: Session, scope: Scope, id: str) -> Dataset | None:
    return session.execute(scoped(select(Dataset), Dataset, scope).where(Dataset.id == id)).scalar_one_or_none()


def page(session: Session, scope: Scope, domain_id: str, request: PageRequest) -> Page[Dataset]:
    statement = scoped(select(Dataset), Dataset, scope).where(Dataset.domain_id == domain_id)
    return fetch_page(session, statement, Dataset.id, request)


def upload(session: Session, scope: Scope, id: str, *, lock: bool = False) -> DatasetUpload | None:
    statement = scoped(select(DatasetUpload), DatasetUpload, scope).where(DatasetUpload.id == id)
    return session.execute(statement.with_for_update() if lock else statement).scalar_one_or_none()


def uploads(session: Session, scope: Scope, domain_id: str, request: PageRequest) -> Page[DatasetUpload]:
    statement = scoped(select(DatasetUpload), DatasetUpload, scope).where(DatasetUpload.domain_id == domain_id)
    return fetch_page(session, statement, DatasetUpload.id, request)


def expired_uploads(session: Session, now: datetime.datetime) -> Sequence[DatasetUpload]:
    """Some of them, of every tenant, locked."""
    statement = scoped(select(DatasetUpload), DatasetUpload, SYSTEM).where(DatasetUpload.expires_at < now)
    return session.execute(statement.limit(100).with_for_update(skip_locked=True)).scalars().all()
