"""Readable pages for people who open a signed URL in a browser after it has expired, or after its image is gone."""

from html import escape
from http import HTTPStatus

from fastapi import Request
from fastapi.responses import HTMLResponse

from core.artifact.errors import CoreError

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>body {{ max-width: 34rem; margin: 15vh auto 0; padding: 0 1rem; font: 1.1rem/1.5 system-ui, sans-serif }}</style>
</head>
<body>
<h1>{title}</h1>
<p>{text}</p>
</body>
</html>
"""
_EXPIRED = (
    "This link has expired",
    "Links to images work for a limited time. Ask whoever gave you this link for a new one.",
)


def wants_page(request: Request) -> bool:
    """Returns whether a person has opened a signed URL in a browser: programs and `<img>` elements do not accept
    HTML."""
    accepted = [part.partition(";")[0].strip() for part in request.headers.get("accept", "").split(",")]
    return request.method == "GET" and "text/html" in accepted and "signature" in request.query_params


def page_of(error: CoreError, headers: dict[str, str]) -> HTMLResponse:
    """Returns an error as an HTML page with the error's status."""
    is_expired = error.status == HTTPStatus.UNAUTHORIZED
    title, text = _EXPIRED if is_expired else (error.title, error.detail)
    html = _PAGE.format(title=escape(title), text=escape(text))
    return HTMLResponse(html, error.status, headers | {"Cache-Control": "no-store"})
