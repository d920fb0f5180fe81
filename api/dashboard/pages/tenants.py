"""Pages for administrators to manage tenants and their API keys."""

import datetime
from typing import Literal

from nicegui import ui

from api.dashboard import kit, words
from api.dashboard.forms import Form, form_dialog
from api.dashboard.frame import frame, page, show_problem
from api.dashboard.user import MOST, AdminUser, User
from difffit import DiffFitError
from difffit.models import Key, KeyIssued, Tenant

_NAME_LENGTH = 200
_LIFETIMES = {0: "Never", 7: "7 days", 30: "30 days", 90: "90 days", 365: "A year"}
_OVERLAPS = {0: "Stops immediately", 3600: "Works for an hour", 86_400: "Works for a day", 604_800: "Works for a week"}


@page("/tenants")
async def tenants(user: AdminUser, cursor: str = "") -> None:
    with frame(user, "Tenants", section="Tenants"):
        listed = await user.api.admin.tenants.list(50).page(cursor or None)
        with kit.box("row"):
            kit.button("New tenant", lambda: _ask_for_tenant(user), kind="primary")
        if not listed.data:
            kit.empty("No tenants yet", "Create one, then issue a key for it.")
            return
        with kit.card():
            columns = ("Tenant", "Id", "Share of the device", "Own limits", "Created")
            kit.table("All tenants", columns, [_row(tenant) for tenant in listed.data])
        kit.pager("tenants", "/tenants", cursor, listed.next_cursor)


def _row(tenant: Tenant) -> list[kit.Cell]:
    limits = ", ".join(f"{name.replace('_', ' ')} {limit:,}" for name, limit in tenant.quotas.items())
    return [
        lambda: ui.link(tenant.name, f"/tenants/{tenant.id}"),
        lambda: kit.write(tenant.id, "span", "mono"),
        f"{tenant.weight:g}",
        limits or "defaults",
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
        name = _name_field("Acme Studio")


def _name_field(example: str, hint: str = "") -> ui.input | ui.textarea:
    field = kit.field("Name", placeholder=example, hint=hint, needed="Enter a name.", most=_NAME_LENGTH)
    return field.props("autofocus")


@page("/tenants/{id}")
async def tenant(user: AdminUser, id: str) -> None:
    crumbs = {"Tenants": "/tenants"}
    try:
        details = await user.api.admin.tenants.get(id)
    except DiffFitError as error:
        with frame(user, "Tenant", section="Tenants", crumbs=crumbs):
            show_problem(error)
        return
    with frame(user, details.name, section="Tenants", crumbs=crumbs):
        keys = [key async for key in user.api.admin.keys.list(id, MOST)]
        with kit.card():
            facts = {
                "Id": details.id,
                "Share of the device": f"{details.weight:g}",
                "Created": words.moment(details.created_at),
            }
            kit.facts(facts | {name.replace("_", " "): f"{limit:,}" for name, limit in details.quotas.items()})
            with kit.box("row"):
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
            _show_key(issued)

    with form_dialog("Issue a key", "Issue", issue) as asked:
        name = _name_field("Web shop", "Label of the key.")
        lifetime = kit.choice("Expires in", _LIFETIMES, 0)
        only_reading = ui.checkbox("Read-only")


def _ask_to_rotate(user: User, key: Key) -> None:
    async def rotate() -> None:
        issued = await user.api.admin.keys.rotate(key.id, overlap_seconds=overlap.value)
        asked.close()
        _show_key(issued)

    with form_dialog(f"Rotate {key.name}", "Rotate", rotate) as asked:
        kit.write("A new key with the same name and scopes replaces it.")
        overlap = kit.choice("The old key", _OVERLAPS, 86_400)


def _ask_to_revoke(user: User, key: Key) -> None:
    async def revoke() -> None:
        await user.api.admin.keys.revoke(key.id)
        kit.reload()

    kit.confirm(f"Revoke {key.name}?", "It stops working immediately. This cannot be undone.", "Revoke the key", revoke)


def _show_key(issued: KeyIssued) -> None:
    with kit.dialog("The new key") as shown:
        kit.write("Copy it now. It is not shown again.")
        kit.code(issued.key or "")
        with kit.box("row end"):
            kit.button("Done", kit.reload, kind="primary")
    shown.props("persistent")
    shown.open()


def _delete(user: User, tenant: Tenant) -> None:
    async def delete() -> None:
        await user.api.admin.tenants.delete(tenant.id)
        ui.navigate.to("/tenants")

    detail = "Its keys, domains, images and versions are deleted too. This cannot be undone."
    kit.confirm(f"Delete {tenant.name}?", detail, "Delete the tenant", delete)
