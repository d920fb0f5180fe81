"""Dependencies of the pages: the signed-in user with a client of the contract."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import httpx
from fastapi import Depends, HTTPException, Request

from api.dashboard.contract import Contract
from api.dashboard.sessions import Session, Sessions
from api.dashboard.transport import AppTransport

sessions = Sessions()
TOKEN = "token"  # noqa: S105  # a name in the cookie, not a secret


@dataclass(frozen=True)
class User:
    session: Session
    contract: Contract
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


def contract_with(request: Request, key: str | None) -> Contract:
    """Returns a client with the address that the browser uses, so that image URLs have it too."""
    return _contract(request, lambda: key)


def get_user(request: Request) -> User:
    """Returns the signed-in user, or redirects to the sign-in page."""
    session = sessions.find(request.session.get(TOKEN))
    if session is None:
        raise redirect(request, "/sign-in")
    token = session.token
    contract = _contract(request, lambda: getattr(sessions.find(token), "key", None))
    return User(session, contract, theme_of(request))


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


def redirect(request: Request, path: str) -> HTTPException:
    return HTTPException(303, headers={"Location": f"{request.scope['root_path']}{path}"})


def theme_of(request: Request) -> str:
    """Returns the theme stored in the cookie: `system`, `light` or `dark`."""
    chosen = request.cookies.get("difffit_theme", "")
    return chosen if chosen in {"light", "dark"} else "system"


def _contract(request: Request, key: Callable[[], str | None]) -> Contract:
    main = request.app.state.main
    http = httpx.AsyncClient(transport=AppTransport(main, request.client), base_url=str(request.base_url), timeout=60)
    return Contract(http, key)
