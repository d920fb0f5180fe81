"""Messages that are none: somebody else's, or cut short. A consumer drops them instead of ending with them."""

import logging
from typing import Any

from kombu.transport import redis, virtual

logger = logging.getLogger(__name__)
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError)
"""Raised by what is no JSON, and by JSON that is no message."""


class PoisonTolerant(virtual.Transport):
    """Drops a message that its channel cannot make a message of. The row is the truth, so nothing is lost."""

    def _deliver(self, message: Any, queue: str | None) -> None:
        try:
            super()._deliver(message, queue)
        except _UNREADABLE:
            logger.warning("dropped a message of %s that is none", queue, exc_info=True)


class RedisChannel(redis.Channel):
    def _brpop_read(self, **options: Any) -> Any:
        """As its parent, which has taken the message out of Redis by the time it cannot parse it."""
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]  # the stubs leave it out
        except _UNREADABLE:
            logger.warning("dropped a message that cannot be read", exc_info=True)
            return True


class RedisTransport(PoisonTolerant, redis.Transport):
    Channel = RedisChannel
