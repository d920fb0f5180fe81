"""Signed URLs, which give access to one path without an API key until they expire."""

import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import structlog
from fastapi import Request

from core.service.config import Settings

logger = structlog.get_logger()


def load_secret(settings: Settings) -> bytes:
    """Returns the secret that signs URLs: the configured one, or else one that is created once and stored in the data
    folder."""
    if settings.url_secret is not None:
        return settings.url_secret.get_secret_value().encode()
    if not settings.embedded:
        logger.warning("DIFFFIT_URL_SECRET is not set: signed URLs work only for processes that share this data folder")
    path = settings.data_dir / "url-secret"
    if not path.exists():
        _write_once(path, secrets.token_hex(32).encode())
    return path.read_bytes()


def signed_url(request: Request, path: str, seconds: int | None = None) -> str:
    """Returns an absolute URL for the path, whose signature covers path and expiry. It is valid for `seconds`, by
    default for the setting `image_url_seconds`."""
    services = request.app.state.services
    settings: Settings = services.settings
    # The current time is rounded up to a minute, so that a page reloaded within it has the same image URLs, which the
    # browser has cached.
    expires = (int(time.time()) // 60 + 1) * 60 + (seconds or settings.image_url_seconds)
    base = (settings.public_url or str(request.base_url)).rstrip("/")
    return f"{base}{path}?expires={expires}&signature={_signature(services.url_secret, path, expires)}"


def signer(request: Request) -> Callable[[str], str]:
    """Returns a function that makes signed URLs of paths, with the host that the client used in this request."""
    return partial(signed_url, request)


def signature_is_valid(secret: bytes, path: str, expires: int, signature: str) -> bool:
    expected = _signature(secret, path, expires)
    return expires >= time.time() and hmac.compare_digest(expected.encode(), signature.encode(errors="replace"))


def _signature(secret: bytes, path: str, expires: int) -> str:
    return hmac.new(secret, f"{path}\n{expires}".encode(), hashlib.sha256).hexdigest()


def _write_once(path: Path, data: bytes) -> None:
    """Creates a file atomically, and leaves an existing file unchanged. If two processes do this at the same time, the
    file has the data of the first one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
    try:
        os.link(partial, path)
    except FileExistsError:
        pass
    finally:
        partial.unlink()
