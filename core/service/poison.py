"""Transports that drop unreadable messages: somebody else's, or cut short. Without them a consumer would end."""

import logging
from typing import Any

from kombu.transport import virtual

logger = logging.getLogger(__name__)
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError)
"""Errors that invalid JSON raises, and JSON that is no message."""


class PoisonTolerant(virtual.Transport):
    """Drops a message that its channel cannot parse. The database row is the truth, so nothing is lost."""

    def _deliver(self, message: Any, queue: str | None) -> None:
        try:
            super()._deliver(message, queue)
        except UNREADABLE:
            logger.warning("dropped a message of %s that is none", queue, exc_info=True)
