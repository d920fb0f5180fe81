"""Page for administrators of one tenant: its limits, its share of the device and its API keys."""

import datetime

from nicegui import ui

from api.dashboard import kit, words
from api.dashboard.days import days_card
from api.dashboard.frame import frame, load, page
from api.dashboard.keys import keys_card
from api.dashboard.tenant_form import ask_to_edit
from api.dashboard.texts import number, tr
from api.dashboard.user import MOST, AdminUser, User
from difffit.models import Tenant, TenantUsageDay

_CRUMBS = {"Tenants": "/tenants"}


@page("/tenants/{id}")
async def tenant(user: AdminUser, id: str, from_day: str = "", to_day: str = "") -> None:
    details = await load(user, user.api.admin.tenants.get(id), tr("Tenant"), section="Tenants", crumbs=_CRUMBS)
    if details is None:
        return

    async def days(first: datetime.date | None, last: datetime.date | None) -> list[TenantUsageDay]:
        return [day async for day in user.api.admin.usage(tenant_id=id, from_day=first, to_day=last)]

    with frame(user, details.name, section="Tenants", crumbs=_CRUMBS):
        keys = [key async for key in user.api.admin.keys.list(id, MOST)]
        with kit.card():
            kept = (
                tr("as by default")
                if details.keep_image_days is None
                else words.several(details.keep_image_days, "day")
            )
            facts = {tr("Share of the device"): number(details.weight, "g"), tr("Images are kept"): kept}
            facts |= {tr("Created"): words.moment(details.created_at), "Id": details.id}
            kit.facts(facts | words.limits(details.quotas))
            with kit.box("row"):
                kit.button(tr("Edit"), lambda: ask_to_edit(user, details))
                ui.link(tr("Show adapters"), f"/adapters?tenant_id={details.id}").classes("button link-button")
                ui.link(tr("Show audit log"), f"/audit?tenant_id={details.id}").classes("button link-button")
                kit.button(tr("Delete the tenant"), lambda: _delete(user, details), kind="danger")
        keys_card(user, keys, details)
        await days_card(f"/tenants/{id}", from_day, to_day, days)


def _delete(user: User, tenant: Tenant) -> None:
    async def delete() -> None:
        await user.api.admin.tenants.delete(tenant.id)
        ui.navigate.to("/tenants")

    detail = tr("Its keys, domains, images and versions are deleted too. This cannot be undone.")
    kit.confirm(tr("Delete {name}?", name=tenant.name), detail, tr("Delete the tenant"), delete)
