"""Pages to sign in with an API key and to sign out."""

from typing import Annotated
from urllib.parse import urlencode, urlsplit

from fastapi import Form, HTTPException, Request
from fastapi.responses import RedirectResponse, Response
from nicegui import app

from api.dashboard.plain import plain
from api.dashboard.sessions import Session
from api.dashboard.user import TOKEN, client_of, in_process, redirect, sessions
from difffit.errors import ApiError

_KEY_LENGTH = 200
_WRONG = {
    "ended": "You have been signed out. Sign in again.",
    "unauthenticated": "The key is unknown, expired or revoked. Ask for a new one.",
    "rate_limited": "Too many wrong keys from your address. Wait a minute, then try again.",
    "elsewhere": "The form was sent from another site. Use this page.",
}
_UNCHECKED = "The key cannot be checked now. Try again in a moment."


@app.get("/", include_in_schema=False)
def start(request: Request) -> RedirectResponse:
    session = sessions.find(request.session.get(TOKEN))
    path = "/sign-in" if session is None else "/tenants" if session.is_admin else "/domains"
    return RedirectResponse(f"{request.scope['root_path']}{path}", 303)


@app.get("/sign-in", include_in_schema=False)
def sign_in(request: Request, problem: str = "", next: str = "") -> Response:
    """Page with the form. `next` is the path of the page to show after signing in."""
    if not problem and sessions.find(request.session.get(TOKEN)) is not None:
        return RedirectResponse(f"{request.scope['root_path']}/", 303)
    told = _WRONG.get(problem, _UNCHECKED) if problem else ""
    return plain(request, "sign_in.html", "Sign in", problem=told, next=next)


@app.post("/session", include_in_schema=False)
async def begin(
    request: Request, key: Annotated[str, Form()] = "", next: Annotated[str, Form()] = ""
) -> RedirectResponse:
    """Begins a session with a key, and shows the page at the path `next`."""

    def refused(problem: str) -> HTTPException:
        return redirect(request, f"/sign-in?{urlencode({'problem': problem} | ({'next': next} if next else {}))}")

    if not _is_from_here(request):
        raise refused("elsewhere")
    key = key.strip()
    if not key or len(key) > _KEY_LENGTH or not key.isascii():  # cannot be an API key, and headers do not allow it
        raise refused("unauthenticated")
    try:
        identity = await client_of(request, key, in_process(request, signs_in=True)).key()
    except ApiError as error:
        raise refused(error.code) from error
    sessions.end(request.session.get(TOKEN))
    request.session[TOKEN] = sessions.begin(
        Session(
            key=key,
            name=identity.tenant_name or "Administrator",
            is_admin=identity.tenant_id is None,
            may_write="write" in identity.scopes,
        )
    )
    # The prefix makes it a path of this site, whatever `next` is.
    return RedirectResponse(f"{request.scope['root_path']}/{next.lstrip('/')}", 303)


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
