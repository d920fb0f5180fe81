"""Decides whether and when a failed request is retried. Both clients use this module; it sends no requests itself."""

import logging
import random
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from difffit.errors import ApiError, ConnectionFailed

logger = logging.getLogger("difffit")

_FIRST_SECONDS, _MAX_SECONDS = 0.5, 8.0
_LONGEST_ASKED = 60.0
"""Maximum `Retry-After` in seconds. If the server asks for a longer wait, the request is not retried."""
_FIRST_TRY_LIVES = 330.0
"""Seconds after the first try during which the first try may still run on the server. The server holds the request's
idempotency key until the first try has ended, even if its connection was lost, but for at most five minutes."""


class Retries:
    """Counter of the retries of one request, at most `limit`. Every request may be retried, since POST requests carry
    an idempotency key."""

    def __init__(self, limit: int) -> None:
        self.limit, self.count = limit, 0
        self.lost_answer = False
        """Whether an earlier try may have succeeded on the server although its response did not arrive."""
        self._started = time.monotonic()

    def after_error(self, error: httpx.TransportError, *, reached: bool = True) -> float:
        """Returns the seconds to wait before the next try after a connection error. Raises ConnectionFailed if no tries
        are left or trying again is useless: because the address is wrong, or nothing accepts connections there and the
        server has not been `reached` before."""
        request = error.request
        reason = str(error) or type(error).__name__
        useless = isinstance(error, (httpx.UnsupportedProtocol, httpx.LocalProtocolError))
        useless = useless or (not reached and isinstance(error, httpx.ConnectError))
        if useless or self.count == self.limit:
            raise ConnectionFailed(f"{request.url.scheme}://{request.url.netloc.decode()}", reason) from error
        self.lost_answer |= not isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout))
        return self._next(reason, None)

    def after_loss(self, error: httpx.TransportError | ApiError) -> float:
        """Returns the seconds to wait before reconnecting a lost event stream. `error` is a connection error or the
        server's error response. Raises ConnectionFailed or ApiError if no tries are left or trying again is useless."""
        if isinstance(error, httpx.TransportError):
            return self.after_error(error)
        if not _is_transient(error.status) or self.count == self.limit or (error.retry_after or 0) > _LONGEST_ASKED:
            raise error
        return self._next(f"{error.status} {error.title}", error.retry_after)

    def after_answer(self, response: httpx.Response) -> float | None:
        """Returns the seconds to wait before the next try, or None if this response is final: it is not transient, or
        no tries are left."""
        asked = retry_after(response)
        if self.count and _still_runs(response) and time.monotonic() - self._started < _FIRST_TRY_LIVES:
            self.count = min(self.count, self.limit - 1)  # the first try still runs: always leave one more try
        elif not _is_transient(response.status_code) or self.count >= self.limit or (asked or 0) > _LONGEST_ASKED:
            return None
        return self._next(f"{response.status_code} {response.reason_phrase}", asked)

    def _next(self, reason: str, asked: float | None) -> float:
        delay = min(_MAX_SECONDS, _FIRST_SECONDS * 2**self.count) * random.uniform(0.75, 1.0)
        delay = delay if asked is None else asked
        self.count += 1
        logger.info("Trying again in %.1f s: %s", delay, reason)
        return delay


def retry_after(response: httpx.Response) -> float | None:
    """Parses the `Retry-After` header, a number of seconds or a date, into seconds. Returns None if it is missing or
    invalid."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())


def _is_transient(status: int) -> bool:
    """Returns whether the same request may succeed later. 501 means that the server lacks a part that it never gets."""
    return status in (408, 429) or (status >= 500 and status != 501)


def _still_runs(response: httpx.Response) -> bool:
    return response.status_code == 409 and b'"idempotency_conflict"' in response.content
