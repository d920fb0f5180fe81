"""Drops unreadable messages (foreign or truncated ones) in kombu transports. A worker that consumed one would otherwise
stop."""

import logging
from typing import Any

from kombu.transport import virtual

logger = logging.getLogger(__name__)
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError)
"""Exceptions that kombu raises for invalid JSON, and for JSON that is not a message."""


class PoisonTolerant(virtual.Transport):
    """Mixin for kombu transports that drops messages which cannot be parsed. No job is lost, since workers also find
    jobs in the database."""

    def _deliver(self, message: Any, queue: str | None) -> None:
        try:
            super()._deliver(message, queue)
        except UNREADABLE:
            logger.warning("dropped an unreadable message from the queue %s", queue, exc_info=True)
