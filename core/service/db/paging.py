"""Keyset pages, newest first: stable while rows come and go, and as fast at the end as at the start."""

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
"""Id prefix of each table that is paged by its ids. A cursor is the id of a page's last row, or its number."""


@dataclass(frozen=True)
class Page(Generic[Row]):
    data: list[Row]
    next_cursor: str | None
    cursor_of: Callable[[Row], str]
    """Returns the cursor of the page behind a row."""


@dataclass(frozen=True)
class PageRequest:
    limit: int = 20
    cursor: str | None = None
    status: str | None = None
    """None: rows of every status."""


def fetch_page(session: Session, statement: Select[Row], id_column: Any, request: PageRequest) -> Page[Row]:
    """Returns one page of a statement, by an id column that sorts by age. Raises InvalidCursor."""
    if request.status is not None:
        statement = statement.where(id_column.class_.status == request.status)
    if request.cursor is not None:
        statement = statement.where(id_column < _after(request.cursor, id_column))
    rows = list(session.execute(statement.order_by(id_column.desc()).limit(request.limit + 1)).scalars())
    return page_of(rows, request, lambda row: str(getattr(row, id_column.key)))


def page_of(rows: list[Row], request: PageRequest, cursor_of: Callable[[Row], str]) -> Page[Row]:
    """Returns a page of rows of which one more than asked for was read, where there are more."""
    page = rows[: request.limit]
    return Page(page, cursor_of(page[-1]) if len(rows) > request.limit else None, cursor_of)


def number_of(cursor: str | None) -> int:
    """Returns the number that a cursor is; 0 for none. Raises InvalidCursor."""
    if cursor is not None and not re.fullmatch("[0-9]{1,18}", cursor):
        raise InvalidCursor
    return int(cursor or 0)


def _after(cursor: str, id_column: Any) -> str | int:
    """Returns the id or number that a cursor is. Its row need not exist any more. Raises InvalidCursor."""
    return number_of(cursor) if id_column.type.python_type is int else id_of(cursor, id_column.class_)


def id_of(cursor: str, model: Any) -> str:
    """Returns the id that a cursor is. Raises InvalidCursor for one that no row of the model could have."""
    if not re.fullmatch(f"{_PREFIXES[model.__tablename__]}_[0-9a-z]{{26}}", cursor):
        raise InvalidCursor
    return cursor
