"""Unique names. A check before the insert cannot guarantee them for concurrent requests."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from core.service.errors import NameTaken


@contextmanager
def named_once(session: Session, kind: str, name: str) -> Iterator[None]:
    """Around a flush. Raises NameTaken when another request has just taken the name."""
    try:
        with session.begin_nested():
            yield
    except IntegrityError as error:
        raise NameTaken(kind, name) from error
