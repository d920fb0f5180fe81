"""Page for administrators that lists the stored adapters of all tenants, with filters."""

from nicegui import ui

from api.dashboard import kit, words
from api.dashboard.forms import press_on_enter
from api.dashboard.frame import frame, page
from api.dashboard.user import AdminUser
from difffit.models import AdminAdapter

_PAGE = 50


@page("/adapters")
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
        listed = await user.api.admin.adapters(_PAGE, **chosen).page(cursor or None)
        with kit.card():
            facts = {"Adapters": words.count(totals.adapters), "Tenants": words.count(totals.tenants)}
            kit.facts(facts | {"Domains": words.count(totals.domains), "Stored": words.size(totals.size_bytes)})
            if listed.data:
                columns = (
                    "Version",
                    "Tenant",
                    "Domain",
                    "State",
                    "Size",
                    "Base",
                    "Created",
                    "Last used",
                    "In memory of",
                )
                kit.table("Stored adapters, newest first", columns, [_row(adapter) for adapter in listed.data])
            else:
                kit.muted("No adapter matches." if chosen else "No adapters yet.")
        kit.pager("adapters", "/adapters", cursor, listed.next_cursor, **filters)


def _filters(filters: dict[str, str]) -> None:
    with kit.box("fields"):
        tenant = kit.field("Tenant's id", filters["tenant_id"])
        domain = kit.field("Domain's id", filters["domain_id"])
        base = kit.field("Base's digest", filters["base_digest"])
        states = {"": "any", "ready": "ready", "quarantined": "quarantined"}
        status = kit.choice("State", states, filters["status"] if filters["status"] in states else "")

    def show() -> None:
        chosen = {"tenant_id": tenant.value, "domain_id": domain.value, "base_digest": base.value}
        ui.navigate.to(kit.with_query("/adapters", {**chosen, "status": status.value}))

    with kit.box("row"):
        submitter = kit.button("Show", show, kind="primary")
        kit.link_button("All", "/adapters")
    for field in (tenant, domain, base):
        press_on_enter(field, submitter)


def _row(adapter: AdminAdapter) -> list[kit.Cell]:
    return [
        lambda: (kit.write(f"Version {adapter.version}", "span"), kit.write(adapter.id, "div", "mono small")),
        lambda: ui.link(words.tail(adapter.tenant_id), f"/tenants/{adapter.tenant_id}").classes("mono"),
        lambda: _link(words.tail(adapter.domain_id), domain_id=adapter.domain_id),
        lambda: kit.badge(adapter.status),
        words.size(adapter.size_bytes),
        lambda: _link(words.short(adapter.base_digest), base_digest=adapter.base_digest),
        words.moment(adapter.created_at),
        words.moment(adapter.last_used_at),
        words.several(len(adapter.resident_on), "worker") if adapter.resident_on else "none",
    ]


def _link(text: str, **filters: str) -> None:
    """Adds a link that shows only the adapters that match the filters."""
    ui.link(text, kit.with_query("/adapters", filters)).classes("mono")
