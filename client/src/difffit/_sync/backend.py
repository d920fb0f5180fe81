"""What differs between the two clients."""

from contextlib import AbstractContextManager
from time import sleep
from typing import TypeVar

__all__ = ["opened", "sleep"]
Value = TypeVar("Value")


def opened(manager: AbstractContextManager[Value]) -> AbstractContextManager[Value]:
    return manager
