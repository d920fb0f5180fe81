"""Rate limits on requests per minute, counted in Redis for all API processes, or per process without Redis.

When Redis does not respond, one request waits for the time-out of 0.2 s. All requests are then counted per process, and
every 5 s one request tries Redis again.
"""

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from limits import RateLimitItemPerMinute
from limits.errors import StorageError
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")
_PATIENCE_SECONDS = 0.2
_AWAY_SECONDS = 5.0
"""Time after which one request tries Redis again when Redis did not respond."""


@dataclass(frozen=True)
class Allowance:
    """State of a caller's rate limit: whether the request is admitted, and the number of requests left."""

    admitted: bool
    limit: int
    left: int
    seconds: int
    """Seconds until further requests are allowed; 1 to 60."""


class RequestCounter:
    """Counts requests by name (of a tenant, for example) in a sliding window of one minute. Thread-safe."""

    def __init__(self, broker_url: str) -> None:
        self._here = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._shared = _shared(broker_url)
        self._lock = threading.Lock()
        self._ask_again_at: float | None = None
        """Monotonic time from which a request tries Redis again; None while Redis responds."""

    def take(self, name: str, limit: int) -> Allowance:
        """Counts one request under `name`, unless `limit` requests were already counted within the last minute. Returns
        whether the request is admitted, and how many requests are left."""
        item = RateLimitItemPerMinute(limit)
        return self._ask(lambda limiter: _allowance(limiter, item, name, admitted=limiter.hit(item, name)))

    def look(self, name: str, limit: int) -> Allowance:
        """Returns how many requests are left under `name`, without counting one."""
        item = RateLimitItemPerMinute(limit)
        return self._ask(lambda limiter: _allowance(limiter, item, name, admitted=limiter.test(item, name)))

    def _ask(self, question: Callable[[SlidingWindowCounterRateLimiter], Answer]) -> Answer:
        if self._shared is not None and self._may_ask():
            try:
                answer = question(self._shared)
            except StorageError as error:
                logger.warning("requests are counted in this process alone: %s", error.storage_error)
                self._ask_again_at = time.monotonic() + _AWAY_SECONDS
            else:
                self._ask_again_at = None
                return answer
        return question(self._here)

    def _may_ask(self) -> bool:
        with self._lock:
            if self._ask_again_at is None:
                return True
            if time.monotonic() < self._ask_again_at:
                return False
            self._ask_again_at = time.monotonic() + _AWAY_SECONDS  # other threads count locally while this one tries
            return True


def _shared(broker_url: str) -> SlidingWindowCounterRateLimiter | None:
    if not broker_url.startswith(("redis://", "rediss://")):
        return None
    from limits.storage import RedisStorage
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    patience = {"socket_timeout": _PATIENCE_SECONDS, "socket_connect_timeout": _PATIENCE_SECONDS}
    once = {"retry": Retry(NoBackoff(), 0)}
    storage = RedisStorage(broker_url, key_prefix="difffit:requests", wrap_exceptions=True, **patience, **once)  # type: ignore[arg-type]  # options of redis-py of any type
    return SlidingWindowCounterRateLimiter(storage)


def _allowance(
    limiter: SlidingWindowCounterRateLimiter, item: RateLimitItemPerMinute, name: str, *, admitted: bool
) -> Allowance:
    stats = limiter.get_window_stats(item, name)
    seconds = math.ceil(stats.reset_time - time.time())  # clamped below, since the wall clock may be set back
    return Allowance(admitted, item.amount, stats.remaining, min(60, max(1, seconds)))
