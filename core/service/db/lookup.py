"""Look-ups of single rows by their id, in the scope of the session."""

from functools import cache
from typing import Any, TypeVar

from sqlalchemy import Select, bindparam, select
from sqlalchemy.orm import Session

from core.artifact.errors import NotFound

Row = TypeVar("Row")


def find(session: Session, model: type[Row], id: str, *, lock: bool = False) -> Row | None:
    """Returns the row of this id. None when there is no such row, when it is another tenant's, and when it is being
    deleted."""
    by_id: Select[Any] = _by_id(model, lock)  # type: ignore[arg-type]  # a class is hashable
    row: Row | None = session.execute(by_id, {"wanted": id}).scalar_one_or_none()
    return None if getattr(row, "deleted_at", None) is not None else row


def require(session: Session, model: type[Row], kind: str, id: str, *, lock: bool = False) -> Row:
    """Returns the row of this id. Raises NotFound, which names its `kind`, where `find` returns None."""
    row = find(session, model, id, lock=lock)
    if row is None:
        raise NotFound(kind, id)
    return row


@cache
def _by_id(model: Any, lock: bool) -> Select[Any]:
    """Builds the statement once: that takes as long as running it, and nearly every request has one."""
    statement = select(model).where(model.id == bindparam("wanted"))
    return statement.with_for_update() if lock else statement
