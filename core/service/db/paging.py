"""Keyset pagination, newest rows first. Pages stay stable while rows are added or deleted, and the last page is as fast
as the first."""

import datetime
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Select
from sqlalchemy.orm import Session
from ulid import ULID

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

    def first(self, count: int) -> "Page[Row]":
        """Returns the page with only its first `count` rows."""
        if count >= len(self.data):
            return self
        return replace(self, data=self.data[:count], next_cursor=self.cursor_of(self.data[count - 1]))


@dataclass(frozen=True)
class PageRequest:
    limit: int = 20
    cursor: str | None = None
    status: str | None = None
    """Status of the rows to return; None returns rows of every status."""


_SLACK = datetime.timedelta(hours=1)
"""Max difference between the time in a row's id, from the clock of the API's host, and the row's `created_at`, from the
database's clock."""
_FIRST, _LAST = (datetime.datetime(year, 1, 2, tzinfo=datetime.UTC) for year in (1970, 9000))


def storable(time: datetime.datetime) -> datetime.datetime:
    """Returns the time, or the nearest one that has an id and can be converted to UTC."""
    return min(max(time, _FIRST), _LAST)


def created_between(
    model: Any, id_column: Any, after: datetime.datetime | None, before: datetime.datetime | None
) -> list[ColumnElement[bool]]:
    """Returns the SQL conditions that a row of `model` was created after `after` and before `before`. They also limit
    `id_column`, which has the ids of these rows and which sorts by creation time, so that an index of ids skips the
    other rows."""
    conditions = []
    if after is not None:
        after = storable(after)
        conditions += [model.created_at > after, id_column > _first_id(model, after - _SLACK)]
    if before is not None:
        before = storable(before)
        conditions += [model.created_at < before, id_column < _first_id(model, before + _SLACK)]
    return conditions


def _first_id(model: Any, time: datetime.datetime) -> str:
    """Returns the smallest id that a row of `model`, created at this time, could have."""
    return f"{_PREFIXES[model.__tablename__]}_{str(ULID.from_datetime(time)).lower()[:10]}"


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
