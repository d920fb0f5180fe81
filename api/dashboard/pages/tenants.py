"""For administrators: tenants, and the keys of each."""

from nicegui import ui

from api.dashboard import kit, words
from api.dashboard.frame import frame
from api.dashboard.user import AdminUser, User
from api.schemas.tenants import KeyIssued, KeyOut, TenantOut

_LIFETIMES = {0: "No end", 7: "7 days", 30: "30 days", 90: "90 days", 365: "A year"}
_OVERLAPS = {0: "Ends at once", 3600: "Works for an hour", 86_400: "Works for a day", 604_800: "Works for a week"}


@ui.page("/tenants")
async def tenants(user: AdminUser, cursor: str = "") -> None:
    with frame(user, "Tenants", section="Tenants"):
        page = await user.contract.page("/v1/admin/tenants", TenantOut, limit=50, cursor=cursor)
        with kit.box("row"):
            kit.button("New tenant", lambda: _ask_for_tenant(user), kind="primary")
        if not page.data:
            kit.empty("No tenant yet", "Make one, then issue it a key.")
            return
        with kit.card():
            columns = ("Tenant", "Id", "Share of the device", "Own limits", "Since")
            kit.table("All tenants", columns, [_row(tenant) for tenant in page.data])
        if page.next_cursor:
            kit.link_button("Older tenants", f"/tenants?cursor={page.next_cursor}")


def _row(tenant: TenantOut) -> list[kit.Cell]:
    limits = ", ".join(f"{name.replace('_', ' ')} {limit:,}" for name, limit in tenant.quotas.items())
    return [
        lambda: ui.link(tenant.name, f"/tenants/{tenant.id}"),
        lambda: kit.write(tenant.id, "span", "mono"),
        f"{tenant.weight:g}",
        limits or "as for all",
        words.moment(tenant.created_at),
    ]


def _ask_for_tenant(user: User) -> None:
    async def make() -> None:
        made = await user.contract.post("/v1/admin/tenants", TenantOut, {"name": name.value})
        ui.navigate.to(f"/tenants/{made.id}")

    with kit.dialog("New tenant") as asked:
        name = kit.field("Name", placeholder="Acme Studio")
        with kit.box("row end"):
            kit.button("Cancel", asked.close)
            kit.button("Make it", make, kind="primary")
    asked.open()


@ui.page("/tenants/{id}")
async def tenant(user: AdminUser, id: str) -> None:
    with frame(user, "Tenant", section="Tenants", crumbs={"Tenants": "/tenants"}):
        found = await user.contract.get(f"/v1/admin/tenants/{id}", TenantOut)
        keys = await user.contract.list(f"/v1/admin/tenants/{id}/keys", KeyOut)
        with kit.card(found.name):
            facts = {
                "Id": found.id,
                "Share of the device": f"{found.weight:g}",
                "Since": words.moment(found.created_at),
            }
            kit.facts(facts | {name.replace("_", " "): f"{limit:,}" for name, limit in found.quotas.items()})
            with kit.box("row"):
                ui.link("Its adapters", f"/adapters?tenant_id={found.id}").classes("button link-button")
                ui.link("Its audit log", f"/audit?tenant_id={found.id}").classes("button link-button")
                kit.button("Delete the tenant", lambda: _delete(user, found), kind="danger")
        with kit.card("Keys", "A key is shown once, when it is made."):
            if keys:
                columns = ("Name", "Id", "May", "State", "Last used", "")
                kit.table("Keys of the tenant", columns, [_key_row(user, key) for key in keys])
            with kit.box("row"):
                kit.button("Issue a key", lambda: _ask_for_key(user, found), kind="primary")


def _key_row(user: User, key: KeyOut) -> list[kit.Cell]:
    def actions() -> None:
        with kit.box("row"):
            kit.button("Rotate", lambda: _ask_to_rotate(user, key), kind="quiet")
            kit.button("Revoke", lambda: _ask_to_revoke(user, key), kind="quiet")

    state = "revoked" if key.revoked_at else "active"
    ends = f" until {words.moment(key.expires_at)}" if key.expires_at and not key.revoked_at else ""
    return [
        key.name,
        lambda: kit.write(key.id, "span", "mono"),
        " and ".join(key.scopes),
        lambda: (kit.badge(state), kit.write(ends, "span", "small")),
        words.moment(key.last_used_at),
        "" if key.revoked_at else actions,
    ]


def _ask_for_key(user: User, tenant: TenantOut) -> None:
    async def issue() -> None:
        body: dict[str, object] = {"name": name.value}
        if lifetime.value:
            body["lifetime_seconds"] = lifetime.value * 86_400
        if only_reading.value:
            body["scopes"] = ["read"]
        issued = await user.contract.post(f"/v1/admin/tenants/{tenant.id}/keys", KeyIssued, body)
        asked.close()
        _show_key(issued)

    with kit.dialog("Issue a key") as asked:
        name = kit.field("Name", placeholder="Web shop", hint="To tell keys apart.")
        lifetime = kit.choice("Works for", _LIFETIMES, 0)
        only_reading = ui.checkbox("May only read")
        with kit.box("row end"):
            kit.button("Cancel", asked.close)
            kit.button("Issue", issue, kind="primary")
    asked.open()


def _ask_to_rotate(user: User, key: KeyOut) -> None:
    async def rotate() -> None:
        body = {"overlap_seconds": overlap.value}
        issued = await user.contract.post(f"/v1/admin/keys/{key.id}/rotate", KeyIssued, body)
        asked.close()
        _show_key(issued)

    with kit.dialog(f"Rotate {key.name}") as asked:
        kit.write("A new key takes its place, with the same name and rights.")
        overlap = kit.choice("The old key", _OVERLAPS, 86_400)
        with kit.box("row end"):
            kit.button("Cancel", asked.close)
            kit.button("Rotate", rotate, kind="primary")
    asked.open()


def _ask_to_revoke(user: User, key: KeyOut) -> None:
    async def revoke() -> None:
        await user.contract.delete(f"/v1/admin/keys/{key.id}")
        ui.navigate.reload()

    kit.confirm(f"Revoke {key.name}?", "It stops working at once, for good.", "Revoke the key", revoke)


def _show_key(issued: KeyIssued) -> None:
    with kit.dialog("The new key") as shown:
        kit.write("Copy it now: it is not shown again.")
        kit.code(issued.key or "")
        with kit.box("row end"):
            kit.button("Done", ui.navigate.reload, kind="primary")
    shown.props("persistent")
    shown.open()


def _delete(user: User, tenant: TenantOut) -> None:
    async def delete() -> None:
        await user.contract.delete(f"/v1/admin/tenants/{tenant.id}")
        ui.navigate.to("/tenants")

    detail = "Its keys, domains, images and versions go too. This cannot be undone."
    kit.confirm(f"Delete {tenant.name}?", detail, "Delete the tenant", delete)
