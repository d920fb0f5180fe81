"""A domain's address: leads to the step that comes next."""

from fastapi import Request
from fastapi.responses import RedirectResponse
from nicegui import ui

from api.dashboard.domain import find
from api.dashboard.user import TenantUser


@ui.page("/domains/{id}")
async def domain(request: Request, user: TenantUser, id: str) -> RedirectResponse | None:
    found = await find(user, id)
    if found is None:
        return None
    step = "images" if found.active_adapter_id is None else "playground"
    return RedirectResponse(f"{request.scope['root_path']}/domains/{found.id}/{step}", 303)
