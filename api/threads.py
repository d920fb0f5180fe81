"""Thread pools by purpose, so that a slow object store cannot block requests that only need the database."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar

P = ParamSpec("P")
Result = TypeVar("Result")
Handler = TypeVar("Handler", bound=Callable[..., Any])
_POOL = "thread_pool"


@dataclass(frozen=True)
class Pool:
    """Threads reserved for one kind of work. When all are busy, further work waits without occupying a thread."""

    name: str
    threads: int


STORE = Pool("store", 16)
"""Threads that read images, thumbnails and downloads from the object store."""
UPLOADS = Pool("uploads", 8)
"""Threads that write uploaded archives, or parts of them, to the object store."""
ADAPTERS = Pool("adapters", 2)
"""Threads that check uploaded adapters. There are few, since each check holds an adapter in memory."""
HEALTH = Pool("health", 4)

_limiters: RunVar[dict[Pool, CapacityLimiter]] = RunVar("limiters")


def runs_in(pool: Pool) -> Callable[[Handler], Handler]:
    """Returns a decorator that marks a blocking handler to run in this pool instead of the default thread pool."""

    def mark(handler: Handler) -> Handler:
        setattr(handler, _POOL, pool)
        return handler

    return mark


def pool_of(handler: Callable[..., Any]) -> Pool | None:
    """Returns the pool that `runs_in` marked the handler with, or None for the default thread pool."""
    pool: Pool | None = getattr(handler, _POOL, None)
    return pool


async def run_in(pool: Pool | None, function: Callable[P, Result], *args: P.args, **named: P.kwargs) -> Result:
    """Runs a blocking function in a thread of the pool and returns its result. None means the default thread pool."""
    return await to_thread.run_sync(partial(function, *args, **named), limiter=_limiter(pool) if pool else None)


def _limiter(pool: Pool) -> CapacityLimiter:
    """Returns the limiter that bounds the pool's threads. Each event loop has its own, as with anyio's default
    limiter."""
    limiters = _limiters.get({})
    if pool not in limiters:
        limiters = {**limiters, pool: CapacityLimiter(pool.threads)}
        _limiters.set(limiters)
    return limiters[pool]
