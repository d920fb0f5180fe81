"""Helpers of all routes that serve images."""

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
    },
}
UNCHANGED: dict[int | str, dict[str, Any]] = {304: {"description": "The image matches `If-None-Match`."}}
OPTIONAL_KEY: dict[str, Any] = {"security": [{"ApiKey": []}, {}]}
"""Security requirement: a signed URL replaces the key."""


def png(request: Request, read: Callable[[], bytes], sha256: str | None = None) -> Response:
    """Returns the image, or 304 if the client has it. If `sha256` is known, a 304 reads nothing from the store."""
    data = None if sha256 else read()
    etag = f'"{sha256 or hashlib.sha256(data or b"").hexdigest()}"'
    headers = {"Cache-Control": _caching(request), "ETag": etag}
    if _knows(request, etag):
        return Response(status_code=304, headers=headers)
    return Response(read() if data is None else data, media_type="image/png", headers=headers)


def _caching(request: Request) -> str:
    """Lets browsers cache an image until its signed URL expires; with an API key they must revalidate each time."""
    expires: int | None = getattr(request.state, "url_expires", None)
    return "private, no-cache" if expires is None else f"private, max-age={max(0, expires - int(time.time()))}"


def _knows(request: Request, etag: str) -> bool:
    tags = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    return etag in tags or "*" in tags
