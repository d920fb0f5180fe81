"""What all routes that serve an image share."""

import hashlib
from typing import Any

from fastapi import Response

IMAGE: dict[str, Any] = {
    "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
    "description": "The image, its settings in PNG text chunks.",
}
OPTIONAL_KEY: dict[str, Any] = {"security": [{"ApiKey": []}, {}]}
"""A signed URL takes the key's place."""


def png(data: bytes, sha256: str | None = None) -> Response:
    digest = sha256 or hashlib.sha256(data).hexdigest()
    headers = {"Cache-Control": "private, max-age=31536000, immutable", "ETag": f'"{digest}"'}
    return Response(data, media_type="image/png", headers=headers)
