"""Response, caching and OpenAPI parts that all routes of PNG images share."""

import hashlib
import time
from collections.abc import Callable
from typing import Any

from fastapi import Request, Response

IMAGE: dict[str, Any] = {
    "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
    "description": "The image, with its settings in PNG text chunks.",
    "headers": {
        "ETag": {"description": "Digest of the image, for `If-None-Match`.", "schema": {"type": "string"}},
        "Cache-Control": {"description": "At most until the signed URL expires.", "schema": {"type": "string"}},
        "Content-Disposition": {"description": "Name of the file, if it is saved.", "schema": {"type": "string"}},
    },
}
UNCHANGED: dict[int | str, dict[str, Any]] = {304: {"description": "The image matches `If-None-Match`."}}
OPTIONAL_KEY: dict[str, Any] = {"security": [{"ApiKey": []}, {}]}
"""OpenAPI security requirement of routes that accept an API key or a signed URL."""


def png(
    request: Request,
    read: Callable[[], bytes],
    sha256: str | None = None,
    size_bytes: int = 0,
    media_type: str = "image/png",
    name: str = "",
) -> Response:
    """Returns a response with the image that `read` returns, or 304 if the client has cached it. If the caller passes
    the image's `sha256`, a 304 needs no read from the object store, and with `size_bytes` neither does a HEAD
    request. A browser saves the image under `name`, which must be ASCII."""
    data = None if sha256 else read()
    etag = f'"{sha256 or hashlib.sha256(data or b"").hexdigest()}"'
    headers = {"Cache-Control": _caching(request), "ETag": etag}
    if name:
        headers["Content-Disposition"] = f'inline; filename="{name}"'
    if _knows(request, etag):
        return Response(status_code=304, headers=headers)
    if request.method == "HEAD" and sha256 and size_bytes:
        return Response(media_type=media_type, headers=headers | {"Content-Length": str(size_bytes)})
    return Response(read() if data is None else data, media_type=media_type, headers=headers)


def _caching(request: Request) -> str:
    """Returns the `Cache-Control` of an image. Browsers may cache it until its signed URL expires; with an API key,
    they must revalidate it each time."""
    expires: int | None = getattr(request.state, "url_expires", None)
    return "private, no-cache" if expires is None else f"private, max-age={max(0, expires - int(time.time()))}"


def _knows(request: Request, etag: str) -> bool:
    tags = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    return etag in tags or "*" in tags
