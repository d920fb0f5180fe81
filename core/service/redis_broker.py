"""The broker on Redis: kombu's transport, made safe for messages that nobody can read."""

import logging
from typing import Any

from kombu.transport import redis

from core.service.poison import UNREADABLE, PoisonTolerant

logger = logging.getLogger(__name__)


class RedisChannel(redis.Channel):
    def _brpop_read(self, **options: Any) -> Any:
        """Reads a message as its parent does, and drops one that cannot be parsed: by then it is no longer in Redis."""
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]  # the stubs leave it out
        except UNREADABLE:
            logger.warning("dropped a message that cannot be read", exc_info=True)
            return True


class RedisTransport(PoisonTolerant, redis.Transport):
    Channel = RedisChannel
