"""Synchronous versions of the functions in `_async/backend.py`. They need neither threads nor an event loop."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from time import sleep
from typing import Any, TypeVar

__all__ = ["away", "opened", "sleep"]
Value = TypeVar("Value")


def away(function: Callable[..., Value], *arguments: Any) -> Value:
    return function(*arguments)


def opened(manager: AbstractContextManager[Value]) -> AbstractContextManager[Value]:
    return manager
