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
"""Reads of the object store: images, examples, downloads."""
UPLOADS = Pool("uploads", 8)
"""Writes of whole archives and parts to the object store."""
ADAPTERS = Pool("adapters", 2)
"""Checks of uploaded adapters, each of which is held in memory."""
HEALTH = Pool("health", 4)

_limiters: RunVar[dict[Pool, CapacityLimiter]] = RunVar("limiters")


def runs_in(pool: Pool) -> Callable[[Handler], Handler]:
    """Marks a blocking handler: it runs in this pool instead of the default one."""

    def mark(handler: Handler) -> Handler:
        setattr(handler, _POOL, pool)
        return handler

    return mark


def pool_of(handler: Callable[..., Any]) -> Pool | None:
    """Returns the pool that a handler was marked with; None means the default pool."""
    pool: Pool | None = getattr(handler, _POOL, None)
    return pool


async def run_in(pool: Pool | None, function: Callable[P, Result], *args: P.args, **named: P.kwargs) -> Result:
    """Runs a blocking function in a thread of the pool; None means the default pool."""
    return await to_thread.run_sync(partial(function, *args, **named), limiter=_limiter(pool) if pool else None)


def _limiter(pool: Pool) -> CapacityLimiter:
    """Returns the pool's limiter, one per event loop, like anyio's default limiter."""
    limiters = _limiters.get({})
    if pool not in limiters:
        limiters = {**limiters, pool: CapacityLimiter(pool.threads)}
        _limiters.set(limiters)
    return limiters[pool]
