"""Broker on Redis: kombu's transport, changed so that it drops unreadable messages instead of stopping the worker."""

import logging
from typing import Any

from kombu.transport import redis

from core.service.poison import UNREADABLE, PoisonTolerant

logger = logging.getLogger(__name__)


class RedisChannel(redis.Channel):
    def _brpop_read(self, **options: Any) -> Any:
        """Reads and delivers a message as kombu does, but drops a message that cannot be parsed; kombu has already
        removed the message from Redis."""
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]  # the stubs leave it out
        except UNREADABLE:
            logger.warning("dropped a message that cannot be read", exc_info=True)
            return True


class RedisTransport(PoisonTolerant, redis.Transport):
    Channel = RedisChannel
