"""Image URLs that work without a key until they expire."""

import hashlib
import hmac
import os
import secrets
import time

from fastapi import Request

from core.config import Settings


def load_secret(settings: Settings) -> bytes:
    """The configured secret, or one that is made once and kept in the data folder."""
    if settings.url_secret is not None:
        return settings.url_secret.get_secret_value().encode()
    path = settings.data_dir / "url-secret"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_bytes()
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_hex(32).encode())
    return path.read_bytes()


def signed_image_url(request: Request, generation_id: str, index: int) -> str:
    """Absolute; the signature covers the path and the time of expiry."""
    services = request.app.state.services
    settings: Settings = services.settings
    path = f"/v1/generations/{generation_id}/images/{index}"
    # Rounded up, so that a page that is drawn again finds its images in the browser's cache.
    expires = (int(time.time()) // 60 + 1) * 60 + settings.image_url_seconds
    base = (settings.public_url or str(request.base_url)).rstrip("/")
    return f"{base}{path}?expires={expires}&signature={_signature(services.url_secret, path, expires)}"


def signature_is_valid(secret: bytes, path: str, expires: int, signature: str) -> bool:
    expected = _signature(secret, path, expires)
    return expires >= time.time() and hmac.compare_digest(expected.encode(), signature.encode(errors="replace"))


def _signature(secret: bytes, path: str, expires: int) -> str:
    return hmac.new(secret, f"{path}\n{expires}".encode(), hashlib.sha256).hexdigest()
