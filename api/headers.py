"""Middleware that adds security headers to every response."""

import secrets
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.service.config import Settings

_NOTHING = "default-src 'none'; frame-ancestors 'none'"
"""Content-Security-Policy of responses that are not HTML pages."""
_CLOSED = "default-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; connect-src 'self'"
_YEAR_SECONDS = 31_536_000


class SecurityHeadersMiddleware:
    """Adds security headers to every response. It is the outermost middleware, so that error responses have them too.
    A Content-Security-Policy that a route has set is left unchanged."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        public = urlsplit(settings.public_url or "")
        self._images = f"{public.scheme}://{public.netloc}" if public.netloc else ""
        self._headers = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin"}
        if public.scheme == "https":
            self._headers["Strict-Transport-Security"] = f"max-age={_YEAR_SECONDS}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        nonce = scope.setdefault("state", {})["nonce"] = secrets.token_urlsafe(16)

        async def send_secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                is_page = headers.get("content-type", "").startswith("text/html")
                policy = page_policy(f"'nonce-{nonce}' 'unsafe-eval'", self._images) if is_page else _NOTHING
                headers.setdefault("Content-Security-Policy", policy)
                headers.update(self._headers)
            await send(message)

        await self.app(scope, receive, send_secured)


def page_policy(scripts: str, images: str = "") -> str:
    """Returns the Content-Security-Policy of an HTML page. It allows files of this service, inline scripts that match
    `scripts` (such as a nonce), and images of the origin `images`.

    Inline styles are allowed because Vue and Quasar write them. The dashboard needs `'unsafe-eval'` in `scripts`,
    because NiceGUI compiles its templates in the browser.
    """
    sources = {
        "script-src": f"'self' {scripts}",
        "style-src": "'self' 'unsafe-inline'",
        "font-src": "'self' data:",
        "img-src": f"'self' data: blob: {images}".rstrip(),
    }
    return "; ".join([_CLOSED, *(f"{name} {allowed}" for name, allowed in sources.items())])
