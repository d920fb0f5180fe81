"""Cross-origin requests (CORS): web pages of other origins may call the API from a browser, if a setting names them.

Browsers send no cookies with these requests, so that the dashboard's sessions cannot be used: pages need an API key.
"""

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from api.idempotency import HEADER, REPLAYED
from core.service.config import Settings

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_SENT = ("Authorization", HEADER, "If-Match", "If-None-Match", "Last-Event-ID", "Prefer", "X-Request-ID")
"""Headers of requests that a browser may send, besides those that it always may."""
_READ = (
    *("Content-Disposition", "ETag", "Location", "Preference-Applied", "RateLimit", "RateLimit-Policy"),
    *("Retry-After", "X-Request-ID", REPLAYED),
)
"""Headers of responses that a page's scripts may read, besides those that they always may."""
_PREFLIGHT_SECONDS = 7200


def add_cross_origin(app: FastAPI, settings: Settings) -> None:
    """Allows requests of pages from the origins in `settings.cors_origins`. Does nothing if there are none."""
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins.split(","),
            allow_methods=_METHODS,
            allow_headers=_SENT,
            expose_headers=_READ,
            max_age=_PREFLIGHT_SECONDS,
        )
