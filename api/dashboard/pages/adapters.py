"""Page for administrators that lists the stored adapters of all tenants, with filters."""

from urllib.parse import urlencode

from nicegui import ui

from api.dashboard import kit, words
from api.dashboard.frame import frame
from api.dashboard.user import AdminUser
from difffit.models import AdminAdapter

_PAGE = 50


@ui.page("/adapters")
async def adapters(
    user: AdminUser,
    tenant_id: str = "",
    domain_id: str = "",
    base_digest: str = "",
    status: str = "",
    cursor: str = "",
) -> None:
    filters = {"tenant_id": tenant_id, "domain_id": domain_id, "base_digest": base_digest, "status": status}
    with frame(user, "Adapters", section="Adapters"):
        with kit.card():
            _filters(filters)
        chosen = {name: value for name, value in filters.items() if value}
        totals = await user.api.admin.adapter_totals(**chosen)
        page = await user.api.admin.adapters(_PAGE, **chosen).page(cursor or None)
        with kit.card():
            facts = {"Adapters": words.count(totals.adapters), "Tenants": words.count(totals.tenants)}
            kit.facts(facts | {"Domains": words.count(totals.domains), "Stored": words.size(totals.size_bytes)})
            if page.data:
                columns = ("Version", "Tenant", "State", "Size", "Base", "Created", "Last used", "In memory of")
                kit.table("Stored adapters, newest first", columns, [_row(adapter) for adapter in page.data])
            else:
                kit.muted("No adapter matches.")
        if page.next_cursor:
            kit.link_button("Older adapters", f"/adapters?{_query({**filters, 'cursor': page.next_cursor})}")


def _filters(filters: dict[str, str]) -> None:
    with kit.box("fields"):
        tenant = kit.field("Tenant's id", filters["tenant_id"])
        domain = kit.field("Domain's id", filters["domain_id"])
        base = kit.field("Base's digest", filters["base_digest"])
        states = {"": "any", "ready": "ready", "quarantined": "quarantined"}
        status = kit.choice("State", states, filters["status"] if filters["status"] in states else "")

    def show() -> None:
        chosen = {"tenant_id": tenant.value, "domain_id": domain.value, "base_digest": base.value}
        ui.navigate.to(f"/adapters?{_query({**chosen, 'status': status.value})}")

    with kit.box("row"):
        kit.button("Show", show, kind="primary")
        kit.link_button("All", "/adapters")


def _row(adapter: AdminAdapter) -> list[kit.Cell]:
    return [
        lambda: (kit.write(f"Version {adapter.version}", "span"), kit.write(adapter.id, "div", "mono small")),
        lambda: ui.link(words.tail(adapter.tenant_id), f"/tenants/{adapter.tenant_id}").classes("mono"),
        lambda: kit.badge(adapter.status),
        words.size(adapter.size_bytes),
        lambda: kit.write(words.short(adapter.base_digest), "span", "mono"),
        words.moment(adapter.created_at),
        words.moment(adapter.last_used_at),
        words.several(len(adapter.resident_on), "worker") if adapter.resident_on else "none",
    ]


def _query(filters: dict[str, str | None]) -> str:
    return urlencode({name: value for name, value in filters.items() if value})
