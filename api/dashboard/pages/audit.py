"""For administrators: who changed what."""

import json

from nicegui import ui

from api.dashboard import kit, words
from api.dashboard.frame import frame
from api.dashboard.user import AdminUser
from api.schemas.usage import AuditOut

_PAGE = 50


@ui.page("/audit")
async def audit(user: AdminUser, tenant_id: str = "", cursor: str = "") -> None:
    with frame(user, "Audit", section="Audit"):
        page = await user.contract.page("/v1/admin/audit", AuditOut, limit=_PAGE, tenant_id=tenant_id, cursor=cursor)
        if tenant_id:
            with kit.box("row"):
                kit.muted(f"Of the tenant {tenant_id} alone.")
                ui.link("Of all", "/audit")
        with kit.card():
            columns = ("When", "What", "Of what", "By the key", "From", "More")
            if page.data:
                kit.table("Changes, newest first", columns, [_row(one) for one in page.data])
            else:
                kit.muted("Nothing yet.")
        if page.next_cursor:
            of_tenant = f"tenant_id={tenant_id}&" if tenant_id else ""
            kit.link_button("Older entries", f"/audit?{of_tenant}cursor={page.next_cursor}")


def _row(one: AuditOut) -> list[kit.Cell]:
    return [
        words.moment(one.created_at),
        one.action,
        lambda: kit.write(one.target, "span", "mono"),
        lambda: kit.write(one.actor_key_id or "the service itself", "span", "mono"),
        one.address or "",
        lambda: kit.write(json.dumps(one.detail, ensure_ascii=False) if one.detail else "", "span", "small long"),
    ]
