"""Keyset pages, newest first: stable while rows come and go, and as fast at the end as at the start."""

import re
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Select
from sqlalchemy.orm import Session

from core.errors import InvalidRequest

Row = TypeVar("Row")

ID_CURSOR = "[0-9A-Za-z_]{1,64}"
NUMBER_CURSOR = "[0-9]{1,18}"
"""A cursor is the id of a page's last row: of an entry of the audit log a number."""


@dataclass(frozen=True)
class Page(Generic[Row]):
    data: list[Row]
    next_cursor: str | None


@dataclass(frozen=True)
class PageRequest:
    limit: int = 20
    cursor: str | None = None


def fetch_page(session: Session, statement: Select[Row], id_column: Any, request: PageRequest) -> Page[Row]:
    """One page of a statement, by an id column that sorts by age.

    Raises InvalidRequest on a cursor that is not ours.
    """
    if request.cursor is not None:
        statement = statement.where(id_column < _after(request.cursor, id_column))
    rows = list(session.execute(statement.order_by(id_column.desc()).limit(request.limit + 1)).scalars())
    more = len(rows) > request.limit
    rows = rows[: request.limit]
    return Page(rows, str(getattr(rows[-1], id_column.key)) if more else None)


def _after(cursor: str, id_column: Any) -> str | int:
    is_number = id_column.type.python_type is int
    if not re.fullmatch(NUMBER_CURSOR if is_number else ID_CURSOR, cursor):
        raise InvalidRequest("cursor", "take it from next_cursor of the page before")
    return int(cursor) if is_number else cursor
