"""Redirect from a domain's URL to its playground, or to its images if it has no active version yet."""

from fastapi import Request
from fastapi.responses import RedirectResponse

from api.dashboard.domain import find
from api.dashboard.frame import page
from api.dashboard.user import TenantUser


@page("/domains/{id}")
async def domain(request: Request, user: TenantUser, id: str) -> RedirectResponse | None:
    details = await find(user, id)
    if details is None:
        return None
    step = "images" if details.active_adapter_id is None else "playground"
    return RedirectResponse(f"{request.scope['root_path']}/domains/{details.id}/{step}", 303)
