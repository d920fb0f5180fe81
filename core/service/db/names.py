"""Unique names, guaranteed by unique constraints of the database. A check before the insert would not suffice for
concurrent requests."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from core.service.errors import NameTaken


@contextmanager
def named_once(session: Session, kind: str, name: str) -> Iterator[None]:
    """Wraps a flush in a savepoint. Raises NameTaken if the flush violates a constraint, since another row has the
    name."""
    try:
        with session.begin_nested():
            yield
    except IntegrityError as error:
        raise NameTaken(kind, name) from error
