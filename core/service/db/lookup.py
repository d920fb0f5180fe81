"""Look-ups of single rows by id, restricted to the tenant of the session's scope."""

from functools import cache
from typing import Any, TypeVar

from sqlalchemy import Select, bindparam, select
from sqlalchemy.orm import Session

from core.artifact.errors import NotFound

Row = TypeVar("Row")


def find(session: Session, model: type[Row], id: str, *, lock: bool = False) -> Row | None:
    """Returns the row with this id; None if it does not exist, belongs to another tenant, or is being deleted. `lock`
    locks the row until the transaction ends (SELECT … FOR UPDATE), and reads its values again if the session has them
    already, since they may have changed before the lock."""
    by_id: Select[Any] = _by_id(model, lock)  # type: ignore[arg-type]  # a class is hashable
    row: Row | None = session.execute(by_id, {"wanted": id}).scalar_one_or_none()
    return None if getattr(row, "deleted_at", None) is not None else row


def require(session: Session, model: type[Row], kind: str, id: str, *, lock: bool = False) -> Row:
    """Returns the row with this id. Raises NotFound, whose message contains `kind` and `id`, where `find` returns
    None."""
    row = find(session, model, id, lock=lock)
    if row is None:
        raise NotFound(kind, id)
    return row


@cache
def _by_id(model: Any, lock: bool) -> Select[Any]:
    """Returns the SELECT for a row by its id. It is cached for each model, since building it takes as long as running
    it, and nearly every request runs one."""
    statement = select(model).where(model.id == bindparam("wanted"))
    return statement.with_for_update().execution_options(populate_existing=True) if lock else statement
