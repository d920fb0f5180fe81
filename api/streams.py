"""Responses that take long and count towards a budget while they are sent: event streams and downloads."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from fastapi import Response
from fastapi.responses import FileResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from api.threads import STORE, run_in
from core.service.storage import ObjectStore

Place = AbstractContextManager[None]
"""Context manager that holds part of a budget, such as one event stream, until it ends."""


class _Holding(Response):
    """Response that releases its resources, such as a temporary file, when it ends, also when the client
    disconnects."""

    held: ExitStack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self.held:
            await super().__call__(scope, receive, send)


class EventStream(_Holding, StreamingResponse):
    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], place: Place, headers: dict[str, str]) -> None:
        """Takes `place` among the open event streams for as long as the response lasts. Raises TooManyStreams or
        ServiceBusy if there is none."""
        super().__init__(events, headers=headers)
        self.held = ExitStack()
        self.held.enter_context(place)


class ArchiveStream(_Holding, StreamingResponse):
    """Response with a zip that is written while it is sent."""

    media_type = "application/zip"

    @classmethod
    async def of(cls, pieces: AsyncIterator[bytes], place: Place, name: str) -> "ArchiveStream":
        """Returns the response with the pieces of the zip file `name`. Awaits the first piece, whose errors still give
        an error response. Raises the error of `place`'s budget, and those of the first piece."""
        with ExitStack() as held:
            held.enter_context(place)
            stream = cls(_chained(await anext(pieces), pieces))
            stream.headers["Content-Disposition"] = f'attachment; filename="{name}"'
            stream.held = held.pop_all()
            return stream


class Download(_Holding, FileResponse):
    """Response with an object of the object store. The object is first stored in a temporary file, so that its digest
    is checked before the first byte is sent."""

    @classmethod
    async def of(cls, store: ObjectStore, key: str, sha256: str, place: Place, headers: dict[str, str]) -> "Download":
        """Fetches the object `key` into a temporary file and returns the response. Raises the error of `place`'s
        budget, NotFound, ChecksumMismatch, StorageUnavailable."""
        with ExitStack() as held:
            held.enter_context(place)
            file = held.enter_context(tempfile.NamedTemporaryFile(prefix="download-"))
            await run_in(STORE, store.download, key, Path(file.name), sha256)
            download = cls(file.name, headers=headers, media_type="application/octet-stream")
            download.held = held.pop_all()
            return download


async def _chained(first: bytes, others: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in others:
        yield piece
