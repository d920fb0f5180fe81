"""What differs between the two clients."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any, TypeVar

import anyio
import anyio.to_thread

Value = TypeVar("Value")
sleep = anyio.sleep


async def away(function: Callable[..., Value], *arguments: Any) -> Value:
    """Work on files, away from the event loop."""
    return await anyio.to_thread.run_sync(function, *arguments)


@asynccontextmanager
async def opened(manager: AbstractContextManager[Value]) -> AsyncIterator[Value]:
    """A context that works on files, away from the event loop."""
    value = await anyio.to_thread.run_sync(manager.__enter__)
    try:
        yield value
    finally:
        await anyio.to_thread.run_sync(manager.__exit__, None, None, None)
