"""Requests from the pages to the application."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from api.dashboard.transport import AppTransport

pytestmark = pytest.mark.anyio
START: Message = {"type": "http.response.start", "status": 200, "headers": []}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def piece(body: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}


async def test_piece_arrives_before_the_response_ends_and_closing_cancels_it() -> None:
    cancelled = False

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        nonlocal cancelled
        await send(START)
        await send(piece(b"first"))
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled = True
            raise

    async with (
        httpx.AsyncClient(transport=AppTransport(app, None, {})) as http,
        http.stream("GET", "http://app/") as response,
    ):
        assert await anext(response.aiter_raw()) == b"first"
        assert not cancelled
    assert cancelled


async def test_application_gets_address_state_and_a_body_in_pieces() -> None:
    received: list[bytes] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert (scope["client"], scope["state"]) == (("203.0.113.9", 1), {"signs_in": True})
        while (message := await receive())["more_body"]:
            received.append(message["body"])
        await send(START)
        await send(piece(b"a"))
        await send(piece(b"b", more=False))

    async def body() -> AsyncIterator[bytes]:
        for number in range(3):
            assert len(received) == number
            yield bytes([number])

    transport = AppTransport(app, ("203.0.113.9", 1), {"signs_in": True})
    async with httpx.AsyncClient(transport=transport) as http:
        response = await http.post("http://app/", content=body())
    assert response.content == b"ab"
    assert received == [b"\0", b"\1", b"\2"]


async def test_application_without_a_response_is_an_error() -> None:
    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise KeyError("broken")

    async with httpx.AsyncClient(transport=AppTransport(app, None, {})) as http:
        with pytest.raises(httpx.RemoteProtocolError) as refused:
            await http.get("http://app/")
    assert isinstance(refused.value.__cause__, KeyError)
