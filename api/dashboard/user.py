"""FastAPI dependencies of the dashboard's pages: the signed-in user, with a client of the API."""

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar
from urllib.parse import urlencode

import httpx
from fastapi import Depends, HTTPException, Request

from api.dashboard.sessions import Session, Sessions
from api.dashboard.transport import AppTransport
from difffit import AsyncClient
from difffit.errors import NotFound

Answer = TypeVar("Answer")
sessions = Sessions()
MOST = 100
"""Maximum number of items in a list that is shown on one page."""
TOKEN = "token"  # noqa: S105  # name of the field in the session cookie, not a secret


@dataclass(frozen=True)
class User:
    session: Session
    api: AsyncClient
    theme: str

    @property
    def name(self) -> str:
        return self.session.name

    @property
    def is_admin(self) -> bool:
        return self.session.is_admin

    @property
    def may_write(self) -> bool:
        return self.session.may_write


def get_user(request: Request) -> User:
    """Returns the signed-in user, or redirects to the sign-in page and from there back to the requested page."""
    session = sessions.find(request.session.get(TOKEN))
    if session is None:
        path = request.url.path.removeprefix(request.scope["root_path"])
        query = f"?{request.url.query}" if request.url.query else ""
        raise redirect(request, f"/sign-in?{urlencode({'next': path + query})}")
    token = session.token

    async def check_session(sent: httpx.Request) -> None:
        """Removes the API key from the request if the session has ended, since an open page still sends requests
        then."""
        if sessions.find(token) is None:
            sent.headers.pop("Authorization", None)

    http = in_process(request)
    http.event_hooks = {"request": [check_session]}
    return User(session, client_of(request, session.key, http), theme_of(request))


def get_tenant(request: Request) -> User:
    user = get_user(request)
    if user.is_admin:
        raise redirect(request, "/tenants")
    return user


def get_administrator(request: Request) -> User:
    user = get_user(request)
    if not user.is_admin:
        raise redirect(request, "/domains")
    return user


TenantUser = Annotated[User, Depends(get_tenant)]
AdminUser = Annotated[User, Depends(get_administrator)]


async def or_none(answer: Awaitable[Answer]) -> Answer | None:
    """Awaits an answer of the API. Returns None if the object does not exist, such as a version that was deleted."""
    try:
        return await answer
    except NotFound:
        return None


def redirect(request: Request, path: str) -> HTTPException:
    return HTTPException(303, headers={"Location": f"{request.scope['root_path']}{path}"})


def theme_of(request: Request) -> str:
    """Returns the theme that the request's cookie selects: `light` or `dark`, or `system` without a cookie."""
    chosen = request.cookies.get("difffit_theme", "")
    return chosen if chosen in {"light", "dark"} else "system"


def client_of(request: Request, key: str, http: httpx.AsyncClient) -> AsyncClient:
    """Returns a client of the API, with the host that the browser uses, so that the image URLs it gets work in the
    browser. It does not retry failed requests, so that users see an error immediately."""
    return AsyncClient(str(request.base_url), key, max_retries=0, http=http)


def in_process(request: Request, **state: Any) -> httpx.AsyncClient:
    """Returns an HTTP client that sends requests to the API in this process, with the address of this request's
    browser."""
    return httpx.AsyncClient(transport=AppTransport(request.app.state.main, request.client, state))
