"""Page for administrators of one tenant: its limits, its share of the device and its API keys."""

import datetime
from typing import Literal

from nicegui import ui

from api.dashboard import kit, words
from api.dashboard.forms import Form, form_dialog, show_secret
from api.dashboard.frame import frame, load, page
from api.dashboard.tenant_form import NAME_LENGTH, ask_to_edit
from api.dashboard.user import MOST, AdminUser, User
from difffit.models import Key, Tenant

_CRUMBS = {"Tenants": "/tenants"}
_LIFETIMES = {0: "Never", 7: "7 days", 30: "30 days", 90: "90 days", 365: "A year"}
_OVERLAPS = {0: "Stops immediately", 3600: "Works for an hour", 86_400: "Works for a day", 604_800: "Works for a week"}


@page("/tenants/{id}")
async def tenant(user: AdminUser, id: str) -> None:
    details = await load(user, user.api.admin.tenants.get(id), "Tenant", section="Tenants", crumbs=_CRUMBS)
    if details is None:
        return
    with frame(user, details.name, section="Tenants", crumbs=_CRUMBS):
        keys = [key async for key in user.api.admin.keys.list(id, MOST)]
        with kit.card():
            kept = "as by default" if details.keep_image_days is None else words.several(details.keep_image_days, "day")
            facts = {"Share of the device": f"{details.weight:g}", "Images are kept": kept}
            facts |= {"Created": words.moment(details.created_at), "Id": details.id}
            kit.facts(facts | words.limits(details.quotas))
            with kit.box("row"):
                kit.button("Edit", lambda: ask_to_edit(user, details))
                ui.link("Show adapters", f"/adapters?tenant_id={details.id}").classes("button link-button")
                ui.link("Show audit log", f"/audit?tenant_id={details.id}").classes("button link-button")
                kit.button("Delete the tenant", lambda: _delete(user, details), kind="danger")
        with kit.card("Keys", "A key is shown only once, when it is created."):
            if keys:
                columns = ("Name", "Id", "Scopes", "State", "Last used", "")
                kit.table("Keys of the tenant", columns, [_key_row(user, key) for key in keys])
            with kit.box("row"):
                kit.button("Issue a key", lambda: _ask_for_key(user, details), kind="primary")


def _key_row(user: User, key: Key) -> list[kit.Cell]:
    def actions() -> None:
        with kit.box("row"):
            kit.button("Rotate", lambda: _ask_to_rotate(user, key), kind="quiet")
            kit.button("Revoke", lambda: _ask_to_revoke(user, key), kind="quiet")

    is_expired = key.expires_at is not None and key.expires_at <= datetime.datetime.now(datetime.UTC)
    state = "revoked" if key.revoked_at else "expired" if is_expired else "active"
    since = "since" if is_expired else "until"
    ends = f" {since} {words.moment(key.expires_at)}" if key.expires_at and not key.revoked_at else ""
    return [
        key.name,
        lambda: kit.write(key.id, "span", "mono"),
        " and ".join(key.scopes),
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
            show_secret("The new key", issued.key or "")

    with form_dialog("Issue a key", "Issue", issue) as asked:
        name = kit.field(
            "Name", placeholder="Web shop", hint="Label of the key.", needed="Enter a name.", most=NAME_LENGTH
        )
        name.props("autofocus")
        lifetime = kit.choice("Expires in", _LIFETIMES, 0)
        only_reading = ui.checkbox("Read-only")


def _ask_to_rotate(user: User, key: Key) -> None:
    async def rotate() -> None:
        issued = await user.api.admin.keys.rotate(key.id, overlap_seconds=overlap.value)
        asked.close()
        show_secret("The new key", issued.key or "")

    with form_dialog(f"Rotate {key.name}", "Rotate", rotate) as asked:
        kit.write("A new key with the same name and scopes replaces it.")
        overlap = kit.choice("The old key", _OVERLAPS, 86_400)


def _ask_to_revoke(user: User, key: Key) -> None:
    async def revoke() -> None:
        await user.api.admin.keys.revoke(key.id)
        kit.reload()

    kit.confirm(f"Revoke {key.name}?", "It stops working immediately. This cannot be undone.", "Revoke the key", revoke)


def _delete(user: User, tenant: Tenant) -> None:
    async def delete() -> None:
        await user.api.admin.tenants.delete(tenant.id)
        ui.navigate.to("/tenants")

    detail = "Its keys, domains, images and versions are deleted too. This cannot be undone."
    kit.confirm(f"Delete {tenant.name}?", detail, "Delete the tenant", delete)
