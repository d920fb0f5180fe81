"""Page for administrators that lists the audit log."""

import json

from nicegui import ui

from api.dashboard import kit, words
from api.dashboard.frame import frame, page
from api.dashboard.user import AdminUser
from difffit.models import Audit

_PAGE = 50


@page("/audit")
async def audit(user: AdminUser, tenant_id: str = "", cursor: str = "") -> None:
    with frame(user, "Audit", section="Audit"):
        listed = await user.api.admin.audit(_PAGE, tenant_id=tenant_id or None).page(cursor or None)
        if tenant_id:
            with kit.box("row"):
                kit.muted(f"Only tenant {tenant_id}.")
                ui.link("Show all", "/audit")
        with kit.card():
            columns = ("Time", "Action", "Target", "Key", "Address", "Details")
            if listed.data:
                kit.table("Changes, newest first", columns, [_row(entry) for entry in listed.data])
            else:
                kit.muted("No entries yet.")
        kit.pager("entries", "/audit", cursor, listed.next_cursor, tenant_id=tenant_id)


def _row(entry: Audit) -> list[kit.Cell]:
    return [
        words.moment(entry.created_at),
        entry.action,
        lambda: kit.write(entry.target, "span", "mono"),
        lambda: kit.write(entry.actor_key_id or "the service itself", "span", "mono"),
        entry.address or "",
        lambda: kit.write(json.dumps(entry.detail, ensure_ascii=False) if entry.detail else "", "span", "small long"),
    ]
