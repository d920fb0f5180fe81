"""Mounting of the dashboard's pages in the FastAPI application, at `/dashboard`."""

import hashlib
import hmac
from importlib import import_module
from pathlib import Path

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exception_handlers import http_exception_handler
from fastapi.responses import RedirectResponse
from jinja2 import ChoiceLoader, DictLoader
from nicegui import app as pages
from nicegui import ui
from nicegui.client import templates

from api.dashboard.plain import plain
from api.dashboard.sessions import COOKIE, COOKIE_SECONDS
from api.deps import Services

PATH = "/dashboard"
HERE = Path(__file__).parent


def mount(app: FastAPI) -> None:
    """Mounts the dashboard's pages in the application. Call it after all routes are added, and only once per process,
    since NiceGUI has a single global application."""
    services: Services = app.state.services
    for module in sorted(HERE.glob("pages/[a-z]*.py")):
        import_module(f"api.dashboard.pages.{module.stem}")
    pages.state.main = app
    _allow_scripts()
    _replace_missing_page()
    pages.add_static_files("/assets", HERE / "assets")
    public = services.settings.public_url or ""
    ui.run_with(
        app,
        mount_path=PATH,
        title="DiffFit",
        favicon=HERE / "assets" / "icon.svg",
        dark=None,
        language="en-US",
        tailwind=False,
        show_welcome_message=False,
        storage_secret=hmac.new(services.url_secret, b"dashboard sessions", hashlib.sha256).hexdigest(),
        session_middleware_kwargs={
            "session_cookie": COOKIE,
            "max_age": COOKIE_SECONDS,
            "same_site": "lax",
            "https_only": public.startswith("https://"),
        },
    )

    @app.get("/", include_in_schema=False)
    def home(request: Request) -> RedirectResponse:
        return RedirectResponse(f"{request.scope.get('root_path', '')}{PATH}/")


def _replace_missing_page() -> None:
    """Replaces NiceGUI's page for unknown addresses, which ignores the theme and leads nowhere."""

    @pages.exception_handler(404)
    async def missing(request: Request, error: HTTPException) -> Response:
        if request.scope.get("endpoint") not in (None, pages):  # an endpoint that is not a page
            return await http_exception_handler(request, error)
        return plain(request, "missing.html", "Not found", 404)


def _allow_scripts() -> None:
    """Adds the nonce of the response's Content-Security-Policy, from `api.headers`, to the scripts in NiceGUI's HTML
    template. Browsers then run these scripts, but none that an attacker injects into a page's content."""
    loader = templates.env.loader
    assert loader is not None
    source, _, _ = loader.get_source(templates.env, "index.html")
    changed = source.replace("<script", '<script nonce="{{ request.state.nonce }}"')
    templates.env.loader = ChoiceLoader([DictLoader({"index.html": changed}), loader])
