"""Queries on data sets and their uploads."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Integer, column, func, select, true
from sqlalchemy.orm import Session

from core.service.db.base import Json
from core.service.db.models import Dataset, DatasetUpload
from core.service.db.paging import Page, PageRequest, fetch_page, number_of, page_of
from core.service.tenancy import SYSTEM, Scope, scoped


@dataclass(frozen=True)
class Rejection:
    """A file of a data set that was not used."""

    position: int
    """Among them, from 1."""
    file: dict[str, Any]
    """{file, code, detail}"""


def get(session: Session, scope: Scope, id: str) -> Dataset | None:
    return session.execute(scoped(select(Dataset), Dataset, scope).where(Dataset.id == id)).scalar_one_or_none()


def page(session: Session, scope: Scope, domain_id: str, request: PageRequest) -> Page[Dataset]:
    statement = scoped(select(Dataset), Dataset, scope).where(Dataset.domain_id == domain_id)
    return fetch_page(session, statement, Dataset.id, request)


def rejected(session: Session, scope: Scope, id: str, request: PageRequest) -> Page[Rejection]:
    """Returns a page of the report. The database takes it out of the column, which may hold megabytes.

    Raises InvalidCursor.
    """
    if session.get_bind().dialect.name == "postgresql":
        files = func.jsonb_array_elements(Dataset.rejected)
        entries = files.table_valued(column("value", Json), with_ordinality="position").render_derived()
        position: ColumnElement[int] = entries.c.position
    else:
        files = func.json_each(Dataset.rejected)
        entries = files.table_valued(column("key", Integer), column("value", Json))
        position = entries.c.key + 1
    statement = scoped(select(position, entries.c.value).select_from(Dataset), Dataset, scope)
    statement = statement.join(entries, true()).where(Dataset.id == id, position > number_of(request.cursor))
    rows = session.execute(statement.order_by(position).limit(request.limit + 1)).all()
    return page_of([Rejection(*row) for row in rows], request, lambda row: str(row.position))


def upload(session: Session, scope: Scope, id: str, *, lock: bool = False) -> DatasetUpload | None:
    statement = scoped(select(DatasetUpload), DatasetUpload, scope).where(DatasetUpload.id == id)
    return session.execute(statement.with_for_update() if lock else statement).scalar_one_or_none()


def uploads(session: Session, scope: Scope, domain_id: str, request: PageRequest) -> Page[DatasetUpload]:
    statement = scoped(select(DatasetUpload), DatasetUpload, scope).where(DatasetUpload.domain_id == domain_id)
    return fetch_page(session, statement, DatasetUpload.id, request)


def expired_uploads(session: Session, now: datetime.datetime) -> Sequence[DatasetUpload]:
    """Returns some expired uploads of every tenant, locked."""
    statement = scoped(select(DatasetUpload), DatasetUpload, SYSTEM).where(DatasetUpload.expires_at < now)
    return session.execute(statement.limit(100).with_for_update(skip_locked=True)).scalars().all()
