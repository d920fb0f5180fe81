"""Filter by tenant of administrators' lists: by name, or by id."""

from collections.abc import Callable
from typing import Any

from nicegui import ui
from nicegui.elements.mixins.value_element import ValueElement

from api.dashboard import kit
from api.dashboard.forms import NAME_LENGTH
from api.dashboard.lists import filter_buttons
from api.dashboard.texts import tr
from api.dashboard.user import MOST, User, or_none

_ID = "ten_"


async def filter_by_tenant(
    user: User, path: str, asked: str, others: Callable[[], dict[str, ValueElement[Any]]] = dict
) -> str | None:
    """Adds the filters of a list: the tenant, and the controls that `others` adds. Returns the id of the tenant that
    `asked` names, or an empty text for all tenants. If none or several tenants match, adds links to them, and returns
    None."""
    matches = await _matches(user, asked) if asked else {"": ""}
    is_clear = len(matches) == 1
    shown = next(iter(matches.values())) if is_clear else asked
    with kit.card():
        with kit.box("fields"):
            tenant = kit.field(tr("Tenant"), shown, placeholder=tr("Name or id"), most=NAME_LENGTH)
            controls = others()
        filter_buttons(path, tenant_id=tenant, **controls)
        if not is_clear:
            kit.muted(
                tr("Several tenants match “{asked}”:", asked=asked)
                if matches
                else tr("No tenant matches “{asked}”.", asked=asked)
            )
            with kit.box("row"):
                for id, name in matches.items():
                    ui.link(name, kit.with_query(path, {"tenant_id": id}))
    return next(iter(matches)) if is_clear else None


async def _matches(user: User, asked: str) -> dict[str, str]:
    """Returns the names of the tenants that an administrator may mean, by id. An id stands for itself, also that of a
    deleted tenant, which still has entries in the audit log."""
    if asked.startswith(_ID):
        tenant = await or_none(user.api.admin.tenants.get(asked))
        return {asked: tenant.name if tenant else asked}
    named = {tenant.id: tenant.name async for tenant in user.api.admin.tenants.list(MOST, name=asked)}
    return {id: name for id, name in named.items() if name.casefold() == asked.casefold()} or named
