"""HTTP session: sends requests with the API key, retries them, and turns responses into models or exceptions."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast
from urllib.parse import quote
from uuid import uuid4
from zipfile import is_zipfile

import httpx
from pydantic import BaseModel, ValidationError

from difffit._async.backend import away, sleep
from difffit.archives import Archive, Counted, OnProgress
from difffit.errors import BadDownload, InvalidInput, NotConfigured, UnexpectedAnswer, error_of
from difffit.retries import Retries, retry_after
from difffit.settings import Settings

Model = TypeVar("Model", bound=BaseModel)
Item = TypeVar("Item")
_PAGE = 100
"""Maximum number of items on a page of a list."""
UPLOAD_SECONDS = 900.0
"""Read timeout of an upload: seconds that the server may take to process the uploaded file before it responds."""


class Page(Protocol[Item]):
    data: list[Item]
    next_cursor: str | None


class AsyncSession:
    """Sends requests to the server. Paths are written as in the OpenAPI document, such as `/v1/domains/{id}`; the
    keyword arguments `ids` fill the braces."""

    def __init__(self, settings: Settings, http: httpx.AsyncClient, max_retries: int) -> None:
        self.settings, self.http, self.max_retries = settings, http, max_retries
        self.reached = False
        """Whether the server has responded to a request of this session."""

    async def call(self, method: str, path: str, model: type[Model], **options: Any) -> Model:
        """Sends a request and returns the response's JSON as a model. Accepts the options of `send`."""
        return parsed(await self.send(method, path, **options), model)

    def pages(
        self,
        path: str,
        model: "type[Page[Item]]",
        limit: int | None,
        query: Mapping[str, Any] | None = None,
        **ids: str,
    ) -> "AsyncPages[Item]":
        """Returns an iterator over a paginated list, which stops after `limit` items."""

        async def fetch(count: int, cursor: str | None) -> Any:
            asked = {**(query or {}), "limit": count, "cursor": cursor}
            return await self.call("GET", path, cast(Any, model), query=asked, **ids)  # pages are models too

        return AsyncPages(fetch, limit)

    async def send(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        upload: Archive | None = None,
        form: Mapping[str, Any] | None = None,
        on_progress: OnProgress | None = None,
        timeout: float | None = None,
        **ids: str | int,
    ) -> httpx.Response:
        """Sends a request, with retries, and returns the successful response, fully read. Omits query parameters that
        are None, and fields of the `form` that goes with an upload that are None.

        Raises ApiError, ConnectionFailed, NotConfigured.
        """
        retries = Retries(self.max_retries)
        sent_headers = {**self._headers(), **(headers or {})}
        if method == "POST" and self.max_retries:
            sent_headers["Idempotency-Key"] = str(uuid4())
        options: dict[str, Any] = {"params": given(query or {}), "headers": sent_headers}
        if body is not None:
            # Unlike httpx's own encoding, this one takes numbers such as NaN, which the server refuses by the field.
            options["content"] = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
            sent_headers["Content-Type"] = "application/json"
        if timeout is not None or upload is not None:
            options["timeout"] = httpx.Timeout(timeout or UPLOAD_SECONDS, connect=10.0)
        while True:
            if upload is not None:
                options |= {"files": {"file": _form_file(upload, on_progress)}, "data": given(form or {})}
            try:
                response = await self.http.request(method, filled(path, ids), **options)
            except httpx.TransportError as error:
                await sleep(retries.after_error(error, reached=self.reached))
                continue
            self.reached = True
            delay = retries.after_answer(response)
            if delay is None:
                break
            await sleep(delay)
        if response.is_success or (method == "DELETE" and response.status_code == 404 and retries.lost_answer):
            return response  # an earlier try deleted the resource, but the server's response to it was lost
        raise error_of(response, retry_after(response))

    @asynccontextmanager
    async def open(self, path: str, headers: Mapping[str, str], **ids: str) -> AsyncIterator[httpx.Response]:
        """Sends a GET request without retries and yields the response, whose body the caller reads as a stream. Raises
        ApiError, httpx.TransportError."""
        headers = {**self._headers(), **headers}
        async with self.http.stream("GET", filled(path, ids), headers=headers) as response:
            if not response.is_success:
                await response.aread()
                raise error_of(response, retry_after(response))
            yield response

    async def save_zip(self, path: str, target: Path, **ids: str) -> None:
        """Writes the zip that a GET request returns to a file, piece by piece. The file appears when it is complete.
        Raises ApiError, ConnectionFailed, BadDownload."""
        part = target.with_name(f"{target.name}.part")
        try:
            async with self.open(path, {}, **ids) as response:
                await _write_body(response, part)
            if not await away(is_zipfile, part):  # a proxy may end a response without an error
                raise BadDownload(target.name)
            part.replace(target)
        except httpx.TransportError as error:
            Retries(0).after_error(error)
            raise
        finally:
            part.unlink(missing_ok=True)

    async def probe(self, path: str) -> httpx.Response:
        """Sends a GET request without API key and without retries, and returns the response, whatever its status.
        Raises ConnectionFailed."""
        try:
            return await self.http.get(path)
        except httpx.TransportError as error:
            Retries(0).after_error(error)
            raise

    def _headers(self) -> dict[str, str]:
        if not self.settings.api_key:
            raise NotConfigured(
                f"There is no API key for {self.settings.url}. Run `difffit login`, or set DIFFFIT_API_KEY."
            )
        return {"Authorization": f"Bearer {self.settings.api_key}"}


class AsyncPages(AsyncIterator[Item]):
    """Iterator over the items of a paginated list. Iterating fetches pages as they are needed; `page` fetches a single
    page."""

    def __init__(self, fetch: Callable[[int, str | None], Awaitable[Any]], limit: int | None) -> None:
        self._fetch, self._limit = fetch, limit
        self._items = self._iterate()

    async def page(self, cursor: str | None = None) -> Page[Item]:
        """Returns one page of at most `limit` items (at most 100): the first page, or the page that starts at `cursor`,
        which is the `next_cursor` of the previous page."""
        page: Page[Item] = await self._fetch(_PAGE if self._limit is None else min(self._limit, _PAGE), cursor)
        return page

    async def __anext__(self) -> Item:
        return await anext(self._items)

    async def _iterate(self) -> AsyncIterator[Item]:
        cursor: str | None = None
        left = self._limit
        while left is None or left > 0:
            page: Page[Item] = await self._fetch(_PAGE if left is None else min(left, _PAGE), cursor)
            for item in page.data:
                yield item
            left = None if left is None else left - len(page.data)
            cursor = page.next_cursor
            if cursor is None:
                return


def parsed(response: httpx.Response, model: type[Model]) -> Model:
    """Parses the JSON body of a response into a model. Raises UnexpectedAnswer if the body does not match the model."""
    try:
        return model.model_validate_json(response.content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UnexpectedAnswer(str(response.request.url), f"{place} {first['msg']}".strip()) from error


def filled(path: str, ids: Mapping[str, str | int]) -> str:
    """Fills ids into the braces of a path. Raises InvalidInput for an id that would change the path, such as an id with
    a slash: quoting the slash does not help, since servers decode `%2F` to a slash."""
    for id in map(str, ids.values()):
        if not id.strip(".") or "/" in id:
            raise InvalidInput(f"'{id}' is not a valid id. Ids are not empty and contain no slash.")
    return path.format(**{name: quote(str(id), safe="") for name, id in ids.items()})


async def _write_body(response: httpx.Response, path: Path) -> None:
    with path.open("wb") as file:
        async for piece in response.aiter_bytes():
            await away(file.write, piece)


def receipt(response: httpx.Response) -> str | None:
    """Returns the id of the deletion receipt that a DELETE response names; None if that response was lost, and this one
    is the 404 of a retry."""
    return response.headers.get("Location", "").rpartition("/")[2] or None


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _form_file(upload: Archive, on_progress: OnProgress | None) -> tuple[str, Any, str]:
    upload.file.seek(0)
    file = upload.file if on_progress is None else Counted(upload.file, upload.size, on_progress)
    return upload.name, file, "application/octet-stream"
