"""Time limits for HTTP connections that are idle, send slowly or do not read, and limits on their number."""

import asyncio
import ipaddress
from collections.abc import Sequence
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.limits import client_of
from core.service.config import Settings

HEAD_BYTES = 2**16
"""Maximum size of an HTTP request's head: request line and headers together."""

MESSAGE_BYTES = 2**16
"""Maximum size of a web socket message. The dashboard's events are far smaller. The limit is needed since anyone can
open the web socket without signing in."""


class Connection(HttpToolsProtocol):
    """HTTP connection of uvicorn with two additional deadlines: one for receiving a request's head, one for a client
    that stops reading the response.

    uvicorn itself only times out between requests, and `api.bodies` limits the time of bodies. At the connection limit,
    a new connection replaces the connection that has been idle longest, so that thousands of silent connections cannot
    keep other clients out.
    """

    address_connections: ClassVar[int]
    proxies: ClassVar[Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]]
    """Networks of trusted proxies. A proxy's connections carry the requests of many clients, so their number is not
    limited per address."""
    head_seconds: ClassVar[float]
    stall_seconds: ClassVar[float]
    waiting: ClassVar[dict["Connection", None]]
    """Connections without a running request, longest idle first."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._in_head, self._head_bytes = False, 0
        self._deadline: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # like uvicorn
        super().connection_made(transport)
        if self.limit_concurrency is not None and len(self.connections) >= self.limit_concurrency and self.waiting:
            longest = next(iter(self.waiting))
            longest._leave()
            self.connections.discard(longest)
        self._await_head()
        if self._is_one_too_many():
            self._leave()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_arrived()
        self._forget_stall()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._head_bytes += len(data)  # without the head's first chunk: on_message_begin then resets the count
        super().data_received(data)
        if self._in_head and self._head_bytes > HEAD_BYTES:
            self._leave()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # else it is a trailer of a chunked body: unused, and uvicorn would store any number of them
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_arrived()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        is_next_here = bool(self.pipeline)
        super().on_response_complete()
        if not is_next_here and not self.transport.is_closing():
            self._await_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall = self.loop.call_later(self.stall_seconds, self._leave)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._forget_stall()

    def _is_one_too_many(self) -> bool:
        """Returns whether this connection exceeds the number of connections, including web sockets, that one client
        address may have. Connections of trusted proxies never do."""
        if len(self.connections) <= self.address_connections or self.client is None:
            return False
        client = client_of(self.client[0])
        others = (getattr(other, "client", None) for other in self.connections)  # every uvicorn protocol has `client`
        if sum(client_of(other[0]) == client for other in others if other) <= self.address_connections:
            return False
        return not any(ipaddress.ip_address(self.client[0]) in network for network in self.proxies)

    def _await_head(self) -> None:
        self.waiting[self] = None
        self._deadline = self.loop.call_later(self.head_seconds, self._leave)

    def _head_arrived(self) -> None:
        self.waiting.pop(self, None)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _forget_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _leave(self) -> None:
        """Closes the connection immediately, without a response and without flushing."""
        self._head_arrived()
        self.transport.abort()


def connection_class(settings: Settings) -> type[Connection]:
    """Returns a subclass of Connection with the settings as class attributes, since uvicorn creates the instances."""
    values = {
        "address_connections": settings.max_address_connections,
        "proxies": [ipaddress.ip_network(network) for network in settings.trusted_proxies.split(",") if network],
        "head_seconds": settings.request_head_seconds,
        "stall_seconds": settings.response_stall_seconds,
        "waiting": {},
    }
    return type("Connection", (Connection,), values)
