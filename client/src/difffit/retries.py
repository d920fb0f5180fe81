"""Whether a request that failed is sent again, and when. Knows nothing of how requests are sent."""

import logging
import random
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from difffit.errors import ApiError, ConnectionFailed

logger = logging.getLogger("difffit")

_TRANSIENT = {429, 502, 503, 504}
_FIRST_SECONDS, _MOST_SECONDS = 0.5, 8.0
_LONGEST_ASKED = 60.0
"""A server that asks for more patience than this is reported instead."""
_FIRST_TRY_LIVES = 330.0
"""Seconds: the server holds the key of a request whose connection was lost until it has ended, five minutes at most."""


class Retries:
    """Those of one request: `most` after the first try. Every request may be repeated: POST carries a key for it."""

    def __init__(self, most: int) -> None:
        self.most, self.made = most, 0
        self.lost_answer = False
        """Whether an earlier try may have been carried out unseen."""
        self._started = time.monotonic()

    def after_error(self, error: httpx.TransportError) -> float:
        """Seconds until the next try. Raises ConnectionFailed after the last one."""
        request = error.request
        reason = str(error) or type(error).__name__
        if self.made == self.most or isinstance(error, (httpx.UnsupportedProtocol, httpx.LocalProtocolError)):
            raise ConnectionFailed(f"{request.url.scheme}://{request.url.netloc.decode()}", reason) from error
        self.lost_answer |= not isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout))
        return self._next(reason, None)

    def after_loss(self, error: httpx.TransportError | ApiError) -> float:
        """The same for a stream, which may also be refused. Raises ConnectionFailed, ApiError."""
        if isinstance(error, httpx.TransportError):
            return self.after_error(error)
        if error.status not in _TRANSIENT or self.made == self.most or (error.retry_after or 0) > _LONGEST_ASKED:
            raise error
        return self._next(f"{error.status} {error.title}", error.retry_after)

    def after_answer(self, response: httpx.Response) -> float | None:
        """Seconds until the next try; None when this answer counts."""
        asked = retry_after(response)
        if self.made and _still_runs(response) and time.monotonic() - self._started < _FIRST_TRY_LIVES:
            self.made = min(self.made, self.most - 1)  # the answer will come: these tries do not count
        elif response.status_code not in _TRANSIENT or self.made >= self.most or (asked or 0) > _LONGEST_ASKED:
            return None
        return self._next(f"{response.status_code} {response.reason_phrase}", asked)

    def _next(self, reason: str, asked: float | None) -> float:
        delay = min(_MOST_SECONDS, _FIRST_SECONDS * 2**self.made) * random.uniform(0.75, 1.0)
        delay = delay if asked is None else asked
        self.made += 1
        logger.info("Trying again in %.1f s: %s", delay, reason)
        return delay


def retry_after(response: httpx.Response) -> float | None:
    """The seconds of `Retry-After`, which may also be a date."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())


def _still_runs(response: httpx.Response) -> bool:
    return response.status_code == 409 and b'"idempotency_conflict"' in response.content
