"""Page of a domain's versions, to compare their images side by side and to choose the active version."""

from nicegui import ui

from api.dashboard import kit, words
from api.dashboard.comparison import MOST_COMPARED, Comparison, delete_button, promote_button
from api.dashboard.domain import domain_frame, find
from api.dashboard.frame import page
from api.dashboard.lists import pager
from api.dashboard.texts import tr
from api.dashboard.user import MOST, TenantUser, User
from difffit.models import Adapter, Domain


@page("/domains/{id}/versions")
async def versions(user: TenantUser, id: str, cursor: str = "", drawn: str = "") -> None:
    domain = await find(user, id)
    if domain is None:
        return
    with domain_frame(user, domain, "Versions"):
        listed = await user.api.adapters.list(id, MOST).page(cursor or None)
        adapters = listed.data
        if not adapters:
            kit.empty(tr("No versions yet"), tr("Every successful fine-tune creates one."))
            return
        active_id = domain.active_adapter_id
        if active_id is not None and active_id not in {adapter.id for adapter in adapters[:MOST_COMPARED]}:
            adapters = [adapter for adapter in adapters if adapter.id != active_id]
            adapters.insert(0, await user.api.adapters.get(active_id))
        if len(adapters) > 1:
            with kit.box("row"):
                kit.link_button(tr("Compare two versions"), f"/domains/{id}/compare")
        comparison = Comparison(user, domain, adapters[:MOST_COMPARED])
        comparison.build()
        await comparison.restore(drawn)
        if len(adapters) > MOST_COMPARED:
            _older(user, domain, adapters[MOST_COMPARED:])
        pager("versions", f"/domains/{id}/versions", listed.next_cursor)


def _older(user: User, domain: Domain, adapters: list[Adapter]) -> None:
    def row(adapter: Adapter) -> list[kit.Cell]:
        def state() -> None:
            with kit.box("row"):
                if adapter.status == "ready":
                    ui.link(tr("Generate with it"), f"/domains/{domain.id}/playground?adapter_id={adapter.id}")
                    promote_button(user, domain, adapter)
                else:
                    kit.badge(adapter.status)
                delete_button(user, adapter)

        return [words.version(adapter), words.moment(adapter.created_at), state]

    with kit.card(tr("Older versions")):
        kit.table(tr("Older versions"), (tr("Version"), tr("Created"), ""), [row(version) for version in adapters])
