"""Middleware that limits the size of request bodies, by method and route, and the time that they take to arrive."""

import asyncio
import re
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import PayloadTooLarge
from core.service.config import UPLOAD_FORM_BYTES, Settings
from core.service.datasets.uploads import part_bytes

JSON_BYTES = 2**20
"""Maximum body size of every route that accepts no file, for any content type."""
_SIGN_IN_BYTES = 8 * 2**10
_BYTES_A_SECOND = 16 * 2**10
"""Minimum upload rate. A body has `request_body_seconds` to arrive, plus the time that its bytes take at this rate."""


class BodyLimitMiddleware:
    """Rejects request bodies that are too large or arrive too slowly. A body whose Content-Length is too large is
    rejected before any of it is read."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app, self.seconds = app, settings.request_body_seconds
        self._limits = _limits(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        body = _Body(receive, self.limit(scope["method"], scope["path"]), headers, self.seconds)
        scope.setdefault("state", {}).setdefault("body_bytes", body.expected)
        await self.app(scope, body.receive, send)

    def limit(self, method: str, path: str) -> int:
        """Returns the maximum body size, in bytes, of a request with this method and path."""
        for other, pattern, limit in self._limits:
            if method == other and pattern.fullmatch(path):
                return limit
        return JSON_BYTES


class _Body:
    """Request body with limits on size and time. Its `receive` wraps the ASGI server's."""

    def __init__(self, receive: Receive, limit: int, headers: Headers, seconds: float) -> None:
        announced = headers.get("content-length", "")
        self._receive, self.limit, self.seconds = receive, limit, seconds
        self.complete = not announced and "transfer-encoding" not in headers
        self.expected = _bytes_of(announced, limit)
        self.received = 0
        self._started: float | None = None

    async def receive(self) -> Message:
        """Returns the next ASGI message. Raises HTTPException for a body that is too large or too slow, since FastAPI
        replaces any other exception that occurs while it reads a body by its own."""
        if self.expected > self.limit:
            raise HTTPException(PayloadTooLarge.status, PayloadTooLarge(self.limit).detail)
        if self.complete:
            return await self._receive()  # the body is complete: waits for the disconnect, without a time limit
        message = await self._next()
        self.received += len(message.get("body", b""))
        self.expected = max(self.expected, self.received)
        self.complete = not message.get("more_body", False)
        return message if self.expected <= self.limit else await self.receive()

    async def _next(self) -> Message:
        now = asyncio.get_running_loop().time()
        self._started = self._started or now
        try:
            async with asyncio.timeout_at(self._started + self.seconds + self.received / _BYTES_A_SECOND):
                return await self._receive()
        except TimeoutError as error:
            detail = (
                f"The body arrived too slowly: {self.received:,} bytes so far. Send it again on a faster connection."
            )
            raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, detail) from error


def _limits(settings: Settings) -> list[tuple[str, re.Pattern[str], int]]:
    form = settings.max_upload_bytes + UPLOAD_FORM_BYTES
    part = part_bytes(settings.max_multipart_bytes, settings.upload_part_bytes)
    limits = [
        ("POST", "/v1/domains/[^/]+/datasets", form),
        ("POST", "/v1/domains/[^/]+/adapters", settings.max_adapter_bytes + UPLOAD_FORM_BYTES),
        ("PUT", "/v1/domains/[^/]+/datasets/uploads/[^/]+/parts/[^/]+", part),
        ("PUT", "/dashboard/upload/[^/]+/[^/]+/parts/[^/]+", part),
        ("POST", "/dashboard/session", _SIGN_IN_BYTES),
    ]
    return [(method, re.compile(path), limit) for method, path, limit in limits]


def _bytes_of(content_length: str, limit: int) -> int:
    """Returns the body size that the header Content-Length announces, or `limit` if the header is not a number. Counts
    a number of more than 15 digits, which may be too long for `int`, as `limit + 1`."""
    if not content_length.isdecimal():
        return limit
    return int(content_length) if len(content_length) <= 15 else limit + 1
