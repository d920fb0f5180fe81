"""Keyset pages, newest first: stable while rows come and go, and as fast at the end as at the start."""

import base64
import binascii
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Select
from sqlalchemy.orm import Session

from core.errors import InvalidRequest

Row = TypeVar("Row")


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
        statement = statement.where(id_column < _decode(request.cursor, id_column))
    rows = list(session.execute(statement.order_by(id_column.desc()).limit(request.limit + 1)).scalars())
    more = len(rows) > request.limit
    rows = rows[: request.limit]
    return Page(rows, _encode(getattr(rows[-1], id_column.key)) if more else None)


def _encode(value: str | int) -> str:
    return base64.urlsafe_b64encode(str(value).encode()).decode().rstrip("=")


def _decode(cursor: str, id_column: Any) -> str | int:
    try:
        value = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
        return _number(value) if id_column.type.python_type is int else _text(value)
    except (ValueError, binascii.Error) as error:
        raise InvalidRequest("cursor", "take it from next_cursor of the page before") from error


def _number(value: str) -> int:
    number = int(value)
    if not 0 <= number < 2**63:
        raise ValueError("no column holds it")
    return number


def _text(value: str) -> str:
    if not value.isprintable():  # PostgreSQL refuses text with a NUL
        raise ValueError("no id looks so")
    return value
