"""Page for administrators that lists the tenants, to search and create them."""

from nicegui import ui

from api.dashboard import kit, words
from api.dashboard.forms import Form, form_dialog
from api.dashboard.frame import frame, page
from api.dashboard.lists import filter_buttons, pager
from api.dashboard.tenant_form import NAME_LENGTH
from api.dashboard.user import AdminUser, User
from difffit.models import Tenant

_PAGE = 50


@page("/tenants")
async def tenants(user: AdminUser, name: str = "", cursor: str = "") -> None:
    with frame(user, "Tenants", section="Tenants"):
        with kit.box("row"):
            kit.button("New tenant", lambda: _ask_for_tenant(user), kind="primary")
        with kit.card():
            filter_buttons("/tenants", name=kit.field("Name contains", name, most=NAME_LENGTH))
        listed = await user.api.admin.tenants.list(_PAGE, name=name.strip() or None).page(cursor or None)
        if listed.data:
            with kit.card():
                columns = ("Tenant", "Id", "Share of the device", "Own limits", "Created")
                kit.table("All tenants", columns, [_row(tenant) for tenant in listed.data])
        elif name:
            kit.empty("No tenant matches", "Search for another part of the name.")
        else:
            kit.empty("No tenants yet", "Create one, then issue a key for it.")
        pager("tenants", "/tenants", listed.next_cursor, {"name": name})


def _row(tenant: Tenant) -> list[kit.Cell]:
    return [
        lambda: ui.link(tenant.name, f"/tenants/{tenant.id}"),
        lambda: kit.write(tenant.id, "span", "mono"),
        f"{tenant.weight:g}",
        ", ".join(f"{name}: {limit}" for name, limit in words.limits(tenant.quotas).items()) or "defaults",
        words.moment(tenant.created_at),
    ]


def _ask_for_tenant(user: User) -> None:
    async def make() -> None:
        form = Form(name=name)
        if not form.is_valid():
            return
        with form.showing_problems():
            tenant = await user.api.admin.tenants.create(name.value)
            ui.navigate.to(f"/tenants/{tenant.id}")

    with form_dialog("New tenant", "Create", make):
        name = kit.field("Name", placeholder="Acme Studio", needed="Enter a name.", most=NAME_LENGTH).props("autofocus")
