"""Page for administrators that lists the stored adapters of all tenants, with filters."""

from nicegui import ui

from api.dashboard import kit, words
from api.dashboard.frame import frame, page
from api.dashboard.lists import pager
from api.dashboard.tenant_filter import filter_by_tenant
from api.dashboard.texts import tr, tr_all
from api.dashboard.user import AdminUser
from difffit.models import AdminAdapter

_PAGE = 50
_STATES = {"": "Any", "ready": "ready", "quarantined": "quarantined"}
_COLUMNS = ("Version", "Tenant", "Domain", "State", "Size", "Base", "Created", "Last used", "In memory of")


@page("/adapters")
async def adapters(
    user: AdminUser,
    tenant_id: str = "",
    domain_id: str = "",
    base_digest: str = "",
    status: str = "",
    cursor: str = "",
) -> None:
    with frame(user, tr("Adapters"), section="Adapters"):
        tenant = await filter_by_tenant(
            user,
            "/adapters",
            tenant_id.strip(),
            lambda: {"status": kit.choice(tr("State"), tr_all(_STATES), status if status in _STATES else "")},
        )
        if tenant is None:
            return
        filters = {"tenant_id": tenant, "domain_id": domain_id, "base_digest": base_digest, "status": status}
        filters = {name: value for name, value in filters.items() if value}
        totals = await user.api.admin.adapter_totals(**filters)
        listed = await user.api.admin.adapters(_PAGE, **filters).page(cursor or None)
        with kit.card():
            facts = {tr("Adapters"): words.count(totals.adapters), tr("Tenants"): words.count(totals.tenants)}
            kit.facts(facts | {tr("Domains"): words.count(totals.domains), tr("Stored"): words.size(totals.size_bytes)})
            if domain_id:
                name = next((adapter.domain_name for adapter in listed.data), None)
                _chosen(tr("Only the domain {name}.", name=name or domain_id), filters, "domain_id")
            if base_digest:
                _chosen(tr("Only the base {digest}.", digest=words.short(base_digest)), filters, "base_digest")
            if listed.data:
                rows = [_row(adapter, filters) for adapter in listed.data]
                kit.table(tr("Stored adapters, newest first"), [tr(name) for name in _COLUMNS], rows)
            else:
                kit.muted(tr("No adapter matches.") if filters else tr("No adapters yet."))
        pager("adapters", "/adapters", listed.next_cursor, filters)


def _chosen(line: str, filters: dict[str, str], name: str) -> None:
    """Adds a line about a filter that was chosen in the table, with a link that removes it."""
    others = {other: value for other, value in filters.items() if other != name}
    with kit.box("row"):
        kit.muted(line)
        ui.link(tr("Remove"), kit.with_query("/adapters", others)).props["aria-label"] = tr(
            "Remove the filter: {line}", line=line
        )


def _row(adapter: AdminAdapter, filters: dict[str, str]) -> list[kit.Cell]:
    return [
        lambda: (kit.write(words.version(adapter), "span"), kit.write(adapter.id, "div", "mono small")),
        lambda: ui.link(adapter.tenant_name or words.tail(adapter.tenant_id), f"/tenants/{adapter.tenant_id}"),
        lambda: _link(adapter.domain_name or words.tail(adapter.domain_id), filters, domain_id=adapter.domain_id),
        lambda: kit.badge(adapter.status),
        words.size(adapter.size_bytes),
        lambda: _link(words.short(adapter.base_digest), filters, base_digest=adapter.base_digest).classes("mono"),
        words.moment(adapter.created_at),
        words.moment(adapter.last_used_at),
        words.several(len(adapter.resident_on), "worker") if adapter.resident_on else tr("none"),
    ]


def _link(text: str, filters: dict[str, str], **chosen: str) -> ui.link:
    """Adds a link to the adapters that also match the chosen filter."""
    return ui.link(text, kit.with_query("/adapters", filters | chosen))
