"""Transports that drop unreadable messages: somebody else's, or cut short. Without them a consumer would end."""

import logging
from typing import Any

from kombu.transport import redis, virtual

logger = logging.getLogger(__name__)
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError)
"""Errors that invalid JSON raises, and JSON that is no message."""


class PoisonTolerant(virtual.Transport):
    """Drops a message that its channel cannot parse. The database row is the truth, so nothing is lost."""

    def _deliver(self, message: Any, queue: str | None) -> None:
        try:
            super()._deliver(message, queue)
        except _UNREADABLE:
            logger.warning("dropped a message of %s that is none", queue, exc_info=True)


class RedisChannel(redis.Channel):
    def _brpop_read(self, **options: Any) -> Any:
        """Reads a message as its parent does, and drops one that cannot be parsed: by then it is no longer in Redis."""
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]  # the stubs leave it out
        except _UNREADABLE:
            logger.warning("dropped a message that cannot be read", exc_info=True)
            return True


class RedisTransport(PoisonTolerant, redis.Transport):
    Channel = RedisChannel
