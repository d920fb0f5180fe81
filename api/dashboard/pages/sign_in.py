"""Pages to sign in with an API key and to sign out. Both use plain HTML forms, so that password managers work."""

from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Form, Request
from fastapi.responses import RedirectResponse
from nicegui import app, ui

from api.dashboard import frame, kit
from api.dashboard.sessions import Session
from api.dashboard.user import TOKEN, client_of, in_process, redirect, sessions, theme_of
from difffit.errors import ApiError

_WRONG = {
    "unauthenticated": "The key is unknown, expired or revoked. Ask for a new one.",
    "rate_limited": "Too many wrong keys from your address. Wait a minute, then try again.",
    "elsewhere": "The form was sent from another site. Use this page.",
}


@ui.page("/")
def start(request: Request) -> RedirectResponse:
    session = sessions.find(request.session.get(TOKEN))
    path = "/sign-in" if session is None else "/tenants" if session.is_admin else "/domains"
    return RedirectResponse(f"{request.scope['root_path']}{path}", 303)


@ui.page("/sign-in")
def sign_in(request: Request, problem: str = "") -> None:
    frame.look("Sign in", theme_of(request))
    with kit.box("gate", "main"):
        kit.picture(f"{request.scope['root_path']}/assets/icon.svg", "", "mark")
        kit.write("DiffFit", "h1")
        kit.muted("Teach the service an image style, then generate images with it. Sign in with your API key.")
        if problem:
            message = _WRONG.get(problem, "The key cannot be checked now. Try again in a moment.")
            kit.write(message, "p", "problem").props("role=alert")
        with ui.element("form").props("method=post") as form:
            form.props["action"] = f"{request.scope['root_path']}/session"
            kit.field("API key", password=True, placeholder="dfk_…").props(
                'name=key autocomplete="current-password" autofocus'
            )
            kit.button("Sign in", kind="primary").props("type=submit")
        kit.write("The key is only kept in the server's memory. Administrators issue keys.", "p", "small")


@app.post("/session", include_in_schema=False)
async def begin(request: Request, key: Annotated[str, Form(max_length=200)] = "") -> RedirectResponse:
    if not _is_from_here(request):
        raise redirect(request, "/sign-in?problem=elsewhere")
    key = key.strip()
    if not key or not key.isascii():  # cannot be an API key, and headers do not allow it
        raise redirect(request, "/sign-in?problem=unauthenticated")
    try:
        identity = await client_of(request, key, in_process(request, signs_in=True)).key()
    except ApiError as error:
        raise redirect(request, f"/sign-in?problem={error.code}") from error
    sessions.end(request.session.get(TOKEN))
    request.session[TOKEN] = sessions.begin(
        Session(
            key=key,
            name=identity.tenant_name or identity.name,
            is_admin=identity.tenant_id is None,
            may_write="write" in identity.scopes,
        )
    )
    return RedirectResponse(f"{request.scope['root_path']}/", 303)


@app.post("/sign-out", include_in_schema=False)
def end(request: Request) -> RedirectResponse:
    sessions.end(request.session.pop(TOKEN, None))
    return RedirectResponse(f"{request.scope['root_path']}/sign-in", 303)


def _is_from_here(request: Request) -> bool:
    """Returns whether the form was sent from this site, according to the header Sec-Fetch-Site. Browsers omit it on
    plain http, where the host of the header Origin is compared instead."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None:
        return site in {"same-origin", "none"}
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")
