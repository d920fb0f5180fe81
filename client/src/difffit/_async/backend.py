"""Functions that the asynchronous and the synchronous client implement differently."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any, TypeVar

import anyio
import anyio.to_thread

Value = TypeVar("Value")
sleep = anyio.sleep


async def away(function: Callable[..., Value], *arguments: Any) -> Value:
    """Runs a function that reads or writes files in a worker thread, so that it does not block the event loop."""
    return await anyio.to_thread.run_sync(function, *arguments)


@asynccontextmanager
async def opened(manager: AbstractContextManager[Value]) -> AsyncIterator[Value]:
    """Enters and exits a context manager in a worker thread, because opening and closing its files would block the
    event loop."""
    value = await anyio.to_thread.run_sync(manager.__enter__)
    try:
        yield value
    finally:
        await anyio.to_thread.run_sync(manager.__exit__, None, None, None)
