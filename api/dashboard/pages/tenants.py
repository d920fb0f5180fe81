"""Page for administrators that lists the tenants, to search and create them."""

from nicegui import ui

from api.dashboard import kit, words
from api.dashboard.forms import NAME_LENGTH, Form, form_dialog
from api.dashboard.frame import frame, page
from api.dashboard.keys import keys_card
from api.dashboard.lists import filter_buttons, pager
from api.dashboard.texts import number, tr
from api.dashboard.user import MOST, AdminUser, User
from difffit.models import Tenant

_PAGE = 50


@page("/tenants")
async def tenants(user: AdminUser, name: str = "", cursor: str = "") -> None:
    with frame(user, tr("Tenants"), section="Tenants"):
        with kit.box("row"):
            kit.button(tr("New tenant"), lambda: _ask_for_tenant(user), kind="primary")
        with kit.card():
            filter_buttons("/tenants", name=kit.field(tr("Name contains"), name, most=NAME_LENGTH))
        listed = await user.api.admin.tenants.list(_PAGE, name=name.strip() or None).page(cursor or None)
        if listed.data:
            with kit.card():
                columns = (tr("Tenant"), "Id", tr("Share of the device"), tr("Own limits"), tr("Created"))
                kit.table(tr("All tenants"), columns, [_row(tenant) for tenant in listed.data])
        elif name:
            kit.empty(tr("No tenant matches"), tr("Search for another part of the name."))
        else:
            kit.empty(tr("No tenants yet"), tr("Create one, then issue a key for it."))
        pager("tenants", "/tenants", listed.next_cursor, {"name": name})
        keys_card(user, [key async for key in user.api.admin.keys.list_admin(MOST)], None)


def _row(tenant: Tenant) -> list[kit.Cell]:
    return [
        lambda: ui.link(tenant.name, f"/tenants/{tenant.id}"),
        lambda: kit.write(tenant.id, "span", "mono"),
        number(tenant.weight, "g"),
        ", ".join(f"{name}: {limit}" for name, limit in words.limits(tenant.quotas).items()) or tr("defaults"),
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

    with form_dialog(tr("New tenant"), tr("Create"), make):
        name = kit.field(tr("Name"), placeholder="Acme Studio", needed=tr("Enter a name."), most=NAME_LENGTH).props(
            "autofocus"
        )
