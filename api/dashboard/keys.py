"""Card with API keys of a tenant or of the administrators, to issue, rotate and revoke them."""

import datetime
from collections.abc import Sequence
from typing import Literal

from nicegui import ui

from api.dashboard import kit, words
from api.dashboard.forms import NAME_LENGTH, Form, form_dialog, show_secret
from api.dashboard.texts import tr, tr_all
from api.dashboard.user import User
from difffit.models import Key, Tenant

_LIFETIMES = {0: "Never", 7: "7 days", 30: "30 days", 90: "90 days", 365: "A year"}
_OVERLAPS = {0: "Stops immediately", 3600: "Works for an hour", 86_400: "Works for a day", 604_800: "Works for a week"}


def keys_card(user: User, keys: Sequence[Key], tenant: Tenant | None) -> None:
    """Adds a card with the keys of a tenant or, if it is None, of the administrators."""
    title = tr("Keys of the tenant") if tenant else tr("Administrators' keys")
    with kit.card(tr("Keys") if tenant else title, tr("A key is shown only once, when it is created.")):
        if keys:
            columns = (tr("Name"), "Id", tr("Scopes"), tr("State"), tr("Last used"), "")
            kit.table(title, columns, [_key_row(user, key) for key in keys])
        with kit.box("row"):
            kit.button(tr("Issue a key"), lambda: _ask_for_key(user, tenant), kind="primary")


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


def _ask_for_key(user: User, tenant: Tenant | None) -> None:
    async def issue() -> None:
        form = Form(name=name)
        if not form.is_valid():
            return
        seconds = lifetime.value * 86_400 or None
        with form.showing_problems():
            if tenant:
                scopes: list[Literal["read", "write"]] | None = ["read"] if only_reading.value else None
                issued = await user.api.admin.keys.create(tenant.id, name.value, scopes, seconds)
            else:
                issued = await user.api.admin.keys.create_admin(name.value, seconds)
            asked.close()
            show_secret(tr("The new key"), issued.key or "")

    with form_dialog(tr("Issue a key"), tr("Issue"), issue) as asked:
        name = kit.field(
            tr("Name"),
            placeholder=tr("Web shop") if tenant else "Ada",
            hint=tr("Label of the key."),
            needed=tr("Enter a name."),
            most=NAME_LENGTH,
        )
        name.props("autofocus")
        lifetime = kit.choice(tr("Expires in"), tr_all(_LIFETIMES), 0)
        if tenant:
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
