"""Downloads of generated images and of data sets, as zips, and of versions."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import httpx
from fastapi import Depends, Query, Request, Response
from fastapi.responses import RedirectResponse, StreamingResponse
from nicegui import app

from api.dashboard.image_filters import Filters, selected
from api.dashboard.user import User, get_tenant, in_process
from difffit import DiffFitError

MOST_IMAGES = 500
"""Maximum number of images in one zip of the API."""
Tenant = Annotated[User, Depends(get_tenant)]


def address(filters: dict[str, str], ids: Sequence[str] = ()) -> str:
    """Returns the address of a zip of the images with these ids, or of the newest that match the filters."""
    return f"/gallery/zip?{urlencode([*filters.items(), *(('id', id) for id in ids)])}"


@app.get("/gallery/zip", include_in_schema=False)
async def images(
    request: Request, user: Tenant, filters: Filters, ids: Annotated[list[str] | None, Query(alias="id")] = None
) -> Response:
    """Sends a zip of images, by their ids or by filters."""
    if ids is None:
        listed = user.api.images.list(filters.get("domain_id"), MOST_IMAGES, **selected(filters, request))
        try:
            ids = [image.id async for image in listed]
        except DiffFitError:
            return _missing(request)
    return await _passed_on(request, user, "POST", "images/download", json={"ids": ids})


@app.get("/versions/{id}/file", include_in_schema=False)
async def version(request: Request, user: Tenant, id: str) -> Response:
    """Sends the file of a version."""
    return await _passed_on(request, user, "GET", f"adapters/{quote(id, safe='')}/download")


@app.get("/datasets/{id}/zip", include_in_schema=False)
async def dataset(request: Request, user: Tenant, id: str) -> Response:
    """Sends a zip of the images of a data set."""
    return await _passed_on(request, user, "GET", f"datasets/{quote(id, safe='')}/download")


async def _passed_on(request: Request, user: User, method: str, path: str, **options: Any) -> Response:
    """Passes a file of the API on while it is received. The client library is not used for it, since it returns a file
    only when all of it is in memory or on disk."""
    url, headers = f"{user.api.url}/v1/{path}", {"Authorization": f"Bearer {user.session.key}"}
    async with AsyncExitStack() as open_until_sent:
        http = await open_until_sent.enter_async_context(in_process(request))
        asked = http.stream(method, url, headers=headers, **options)
        answer = await open_until_sent.enter_async_context(asked)
        if not answer.is_success:
            return _missing(request)
        headers = {"Content-Disposition": answer.headers["Content-Disposition"]}
        pieces = _pieces(answer, open_until_sent.pop_all())
        return StreamingResponse(pieces, headers=headers, media_type=answer.headers["Content-Type"])


async def _pieces(answer: httpx.Response, open_until_sent: AsyncExitStack) -> AsyncIterator[bytes]:
    async with open_until_sent:
        async for piece in answer.aiter_bytes():
            yield piece


def _missing(request: Request) -> Response:
    return RedirectResponse(f"{request.scope['root_path']}/missing-file", 303)
