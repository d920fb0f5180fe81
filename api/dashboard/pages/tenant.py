"""Page for administrators of one tenant: its limits, its share of the device and its API keys."""

import datetime
from typing import Literal

from nicegui import ui

from api.dashboard import kit, words
from api.dashboard.days import days_card
from api.dashboard.forms import NAME_LENGTH, Form, form_dialog, show_secret
from api.dashboard.frame import frame, load, page
from api.dashboard.tenant_form import ask_to_edit
from api.dashboard.texts import number, tr, tr_all
from api.dashboard.user import MOST, AdminUser, User
from difffit.models import Key, Tenant

_CRUMBS = {"Tenants": "/tenants"}
_LIFETIMES = {0: "Never", 7: "7 days", 30: "30 days", 90: "90 days", 365: "A year"}
_OVERLAPS = {0: "Stops immediately", 3600: "Works for an hour", 86_400: "Works for a day", 604_800: "Works for a week"}


@page("/tenants/{id}")
async def tenant(user: AdminUser, id: str) -> None:
    details = await load(user, user.api.admin.tenants.get(id), tr("Tenant"), section="Tenants", crumbs=_CRUMBS)
    if details is None:
        return
    with frame(user, details.name, section="Tenants", crumbs=_CRUMBS):
        keys = [key async for key in user.api.admin.keys.list(id, MOST)]
        days = [day async for day in user.api.admin.usage(tenant_id=id)]
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
        with kit.card(tr("Keys"), tr("A key is shown only once, when it is created.")):
            if keys:
                columns = (tr("Name"), "Id", tr("Scopes"), tr("State"), tr("Last used"), "")
                kit.table(tr("Keys of the tenant"), columns, [_key_row(user, key) for key in keys])
            with kit.box("row"):
                kit.button(tr("Issue a key"), lambda: _ask_for_key(user, details), kind="primary")
        days_card(days)


def _key_row(user: User, key: Key) -> list[kit.Cell]:
    def actions() -> None:
        with kit.box("row"):
            kit.button(tr("Rotate"), lambda: _ask_to_rotate(user, key), kind="quiet")
            kit.button(tr("Revoke"), lambda: _ask_to_revoke(user, key), kind="quiet")

    is_expired = key.expires_at is not None and key.expires_at <= datetime.datetime.now(datetime.UTC)
    state = "revoked" if key.revoked_at else "expired" if is_expired else "active"
    ends = ""
    if key.expires_at and not key.revoked_at:
        time = words.moment(key.expires_at)
        ends = f" {tr('since {time}', time=time) if is_expired else tr('until {time}', time=time)}"
    return [
        key.name,
        lambda: kit.write(key.id, "span", "mono"),
        ", ".join(key.scopes),
        lambda: (kit.badge(state), kit.write(ends, "span", "small")),
        words.moment(key.last_used_at),
        "" if key.revoked_at else actions,
    ]


def _ask_for_key(user: User, tenant: Tenant) -> None:
    async def issue() -> None:
        form = Form(name=name)
        if not form.is_valid():
            return
        scopes: list[Literal["read", "write"]] | None = ["read"] if only_reading.value else None
        seconds = lifetime.value * 86_400 or None
        with form.showing_problems():
            issued = await user.api.admin.keys.create(tenant.id, name.value, scopes, seconds)
            asked.close()
            show_secret(tr("The new key"), issued.key or "")

    with form_dialog(tr("Issue a key"), tr("Issue"), issue) as asked:
        name = kit.field(
            tr("Name"),
            placeholder=tr("Web shop"),
            hint=tr("Label of the key."),
            needed=tr("Enter a name."),
            most=NAME_LENGTH,
        )
        name.props("autofocus")
        lifetime = kit.choice(tr("Expires in"), tr_all(_LIFETIMES), 0)
        only_reading = ui.checkbox(tr("Read-only"))


def _ask_to_rotate(user: User, key: Key) -> None:
    async def rotate() -> None:
        issued = await user.api.admin.keys.rotate(key.id, overlap_seconds=overlap.value)
        asked.close()
        show_secret(tr("The new key"), issued.key or "")

    with form_dialog(tr("Rotate {name}", name=key.name), tr("Rotate"), rotate) as asked:
        kit.write(tr("A new key with the same name, scopes and lifetime replaces it."))
        overlap = kit.choice(tr("The old key"), tr_all(_OVERLAPS), 86_400)


def _ask_to_revoke(user: User, key: Key) -> None:
    async def revoke() -> None:
        await user.api.admin.keys.revoke(key.id)
        kit.reload()

    kit.confirm(
        tr("Revoke {name}?", name=key.name),
        tr("It stops working immediately. This cannot be undone."),
        tr("Revoke the key"),
        revoke,
    )


def _delete(user: User, tenant: Tenant) -> None:
    async def delete() -> None:
        await user.api.admin.tenants.delete(tenant.id)
        ui.navigate.to("/tenants")

    detail = tr("Its keys, domains, images and versions are deleted too. This cannot be undone.")
    kit.confirm(tr("Delete {name}?", name=tenant.name), detail, tr("Delete the tenant"), delete)
