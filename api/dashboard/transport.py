"""In-process requests from the pages to the application, without a socket.

httpx's own ASGI transport buffers the whole response, so events would only arrive at the end.
"""

import asyncio
import contextvars
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import httpx
from starlette.types import ASGIApp, Message

_STATE = ("body_bytes", "signs_in")
"""Names of request state that only pages can pass to the application, not external clients."""


class AppTransport(httpx.AsyncBaseTransport):
    """Sends requests on behalf of a browser. `client` is the browser's address, for rate limits."""

    def __init__(self, app: ASGIApp, client: tuple[str, int] | None) -> None:
        self.app, self.client = app, client

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        call = _Call(request, self.client)
        # A separate context, since the page's context has variables of another request, such as its id.
        call.task = asyncio.create_task(self._run(call), context=contextvars.Context())
        start = await call.messages.get()
        if start is None:
            raise httpx.RemoteProtocolError("The application ended without a response.", request=request)
        return httpx.Response(start["status"], headers=start["headers"], stream=_Body(call), request=request)

    async def _run(self, call: "_Call") -> None:
        try:
            await self.app(call.scope, call.receive, call.messages.put)
        finally:
            call.messages.put_nowait(None)


class _Call:
    """One request as ASGI scope and messages."""

    def __init__(self, request: httpx.Request, client: tuple[str, int] | None) -> None:
        assert isinstance(request.stream, httpx.AsyncByteStream)
        self.messages: asyncio.Queue[Message | None] = asyncio.Queue()
        self.task: asyncio.Task[None] | None = None
        self._body = request.stream.__aiter__()
        self._sent = False
        self._never = asyncio.Event()
        self.scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": request.url.scheme,
            "path": request.url.path,
            "raw_path": request.url.raw_path.split(b"?")[0],
            "query_string": request.url.query,
            "root_path": "",
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "server": (request.url.host, request.url.port),
            "client": client,
            "state": {name: request.extensions[name] for name in _STATE if name in request.extensions},
        }

    async def receive(self) -> Message:
        if self._sent:
            await self._never.wait()  # a client that stops listening cancels the task
        try:
            return {"type": "http.request", "body": await anext(self._body), "more_body": True}
        except StopAsyncIteration:
            self._sent = True
            return {"type": "http.request", "body": b"", "more_body": False}


class _Body(httpx.AsyncByteStream):
    def __init__(self, call: _Call) -> None:
        self.call, self.complete = call, False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (message := await self.call.messages.get()) is not None:
            if message["type"] == "http.response.body":
                yield message.get("body", b"")
                self.complete = not message.get("more_body")
                if self.complete:
                    return

    async def aclose(self) -> None:
        """Waits for an application that has sent its response; cancels one that is still sending."""
        assert self.call.task is not None
        if not self.complete:
            self.call.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.call.task
