"""Keyset pagination, newest rows first. Pages stay stable while rows are added or deleted, and the last page is as fast
as the first."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Select
from sqlalchemy.orm import Session

from core.service.errors import InvalidCursor

Row = TypeVar("Row")

_PREFIXES = {
    "adapters": "adp",
    "api_keys": "key",
    "dataset_uploads": "upl",
    "datasets": "ds",
    "deletions": "del",
    "domains": "dom",
    "finetunes": "ft",
    "generations": "gen",
    "tenants": "ten",
    "webhook_deliveries": "msg",
    "webhooks": "wh",
    "workers": "wrk",
}
"""Id prefix of each table that is paged by id. A pagination cursor is the id of a page's last row, or the row's
number."""


@dataclass(frozen=True)
class Page(Generic[Row]):
    data: list[Row]
    next_cursor: str | None
    cursor_of: Callable[[Row], str]
    """Function that returns the pagination cursor of the page after a given row."""


@dataclass(frozen=True)
class PageRequest:
    limit: int = 20
    cursor: str | None = None
    status: str | None = None
    """Status of the rows to return; None returns rows of every status."""


def fetch_page(session: Session, statement: Select[Row], id_column: Any, request: PageRequest) -> Page[Row]:
    """Runs a SELECT for one page of rows, newest first by `id_column`, whose values increase with time. Raises
    InvalidCursor."""
    if request.status is not None:
        statement = statement.where(id_column.class_.status == request.status)
    if request.cursor is not None:
        statement = statement.where(id_column < _after(request.cursor, id_column))
    rows = list(session.execute(statement.order_by(id_column.desc()).limit(request.limit + 1)).scalars())
    return page_of(rows, request, lambda row: str(getattr(row, id_column.key)))


def page_of(rows: list[Row], request: PageRequest, cursor_of: Callable[[Row], str]) -> Page[Row]:
    """Returns a page made from up to `request.limit + 1` rows. The extra row only shows that there is a next page."""
    page = rows[: request.limit]
    return Page(page, cursor_of(page[-1]) if len(rows) > request.limit else None, cursor_of)


def number_of(cursor: str | None) -> int:
    """Decodes a pagination cursor into the number it stands for; 0 for no cursor. Raises InvalidCursor."""
    if cursor is not None and not re.fullmatch("[0-9]{1,18}", cursor):
        raise InvalidCursor
    return int(cursor or 0)


def _after(cursor: str, id_column: Any) -> str | int:
    """Decodes a pagination cursor into the id or number it stands for. The row with that id may have been deleted.
    Raises InvalidCursor."""
    return number_of(cursor) if id_column.type.python_type is int else id_of(cursor, id_column.class_)


def id_of(cursor: str, model: Any) -> str:
    """Decodes a pagination cursor into the id it stands for. Raises InvalidCursor if no row of the model could have
    such an id."""
    if not re.fullmatch(f"{_PREFIXES[model.__tablename__]}_[0-9a-z]{{26}}", cursor):
        raise InvalidCursor
    return cursor
