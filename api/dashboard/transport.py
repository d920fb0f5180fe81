"""HTTP transport for requests from the dashboard's pages to the API in the same process, without a socket.

It streams responses. httpx's own ASGI transport buffers the whole response, so events would only arrive at the end.
"""

import asyncio
import contextvars
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any

import httpx
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class AppTransport(httpx.AsyncBaseTransport):
    """httpx transport that sends requests to an ASGI application on behalf of a browser. `client` is the browser's
    address, which rate limits count. `state` becomes the request's state, which external clients cannot set."""

    def __init__(self, app: ASGIApp, client: tuple[str, int] | None, state: Mapping[str, Any]) -> None:
        self.app, self.client, self.state = app, client, state

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        messages: asyncio.Queue[Message | None] = asyncio.Queue()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            async def pass_on(message: Message) -> None:
                messages.put_nowait(message)
                await send({**message, "body": b""})  # without the data, which httpx would buffer

            await self.app({**scope, "client": self.client, "state": {**self.state}}, receive, pass_on)

        # A separate context, since the page's context has the variables of the page's own request, such as its id.
        buffered = httpx.ASGITransport(app).handle_async_request(request)
        task = asyncio.create_task(buffered, context=contextvars.Context())
        task.add_done_callback(lambda _: messages.put_nowait(None))
        start = await messages.get()
        if start is None:
            reason = "The application ended without a response."
            raise httpx.RemoteProtocolError(reason, request=request) from task.exception()
        body = _Body(task, messages)
        return httpx.Response(start["status"], headers=start["headers"], stream=body, request=request)


class _Body(httpx.AsyncByteStream):
    def __init__(self, task: asyncio.Task[httpx.Response], messages: asyncio.Queue[Message | None]) -> None:
        self._task, self._messages = task, messages
        self._is_complete = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while not self._is_complete and (message := await self._messages.get()) is not None:
            self._is_complete = not message.get("more_body")
            yield message.get("body", b"")

    async def aclose(self) -> None:
        """Waits until the application has finished, or cancels it if it is still sending the response."""
        if not self._is_complete:
            self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
