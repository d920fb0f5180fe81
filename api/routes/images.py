"""Parts shared by all routes that serve an image."""

import hashlib
import time
from collections.abc import Callable
from typing import Any

from fastapi import Request, Response

IMAGE: dict[str, Any] = {
    "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
    "description": "The image, its settings in PNG text chunks.",
    "headers": {
        "ETag": {"description": "Digest of the image, for `If-None-Match`.", "schema": {"type": "string"}},
        "Cache-Control": {"description": "At most as long as the signed URL works.", "schema": {"type": "string"}},
    },
}
UNCHANGED: dict[int | str, dict[str, Any]] = {304: {"description": "The image is the one that `If-None-Match` names."}}
OPTIONAL_KEY: dict[str, Any] = {"security": [{"ApiKey": []}, {}]}
"""A signed URL takes the key's place."""


def png(request: Request, read: Callable[[], bytes], sha256: str | None = None) -> Response:
    """An image, or 304 where the client has it. With its digest nothing is read from the store for that."""
    data = None if sha256 else read()
    etag = f'"{sha256 or hashlib.sha256(data or b"").hexdigest()}"'
    headers = {"Cache-Control": _caching(request), "ETag": etag}
    if _knows(request, etag):
        return Response(status_code=304, headers=headers)
    return Response(read() if data is None else data, media_type="image/png", headers=headers)


def _caching(request: Request) -> str:
    """A browser keeps an image as long as its URL works, and asks each time where an API key was sent."""
    expires: int | None = getattr(request.state, "url_expires", None)
    return "private, no-cache" if expires is None else f"private, max-age={max(0, expires - int(time.time()))}"


def _knows(request: Request, etag: str) -> bool:
    tags = [one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")]
    return etag in tags or "*" in tags
