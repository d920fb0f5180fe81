"""Page for administrators that lists the audit log."""

import json

from nicegui import ui

from api.dashboard import kit, words
from api.dashboard.frame import frame, page
from api.dashboard.lists import pager
from api.dashboard.tenant_filter import filter_by_tenant
from api.dashboard.texts import tr
from api.dashboard.user import AdminUser
from difffit.models import Audit

_PAGE = 50


@page("/audit")
async def audit(user: AdminUser, tenant_id: str = "", cursor: str = "") -> None:
    with frame(user, tr("Audit"), section="Audit"):
        tenant = await filter_by_tenant(user, "/audit", tenant_id.strip())
        if tenant is None:
            return
        listed = await user.api.admin.audit(_PAGE, tenant_id=tenant or None).page(cursor or None)
        with kit.card():
            columns = (tr("Time"), tr("Tenant"), tr("Action"), tr("Target"), tr("Key"), tr("Address"), tr("Details"))
            if listed.data:
                kit.table(tr("Changes, newest first"), columns, [_row(entry) for entry in listed.data])
            else:
                kit.muted(tr("No entries yet."))
        pager("entries", "/audit", listed.next_cursor, {"tenant_id": tenant})


def _row(entry: Audit) -> list[kit.Cell]:
    return [
        words.moment(entry.created_at),
        lambda: _tenant(entry),
        entry.action,
        lambda: _target(entry),
        lambda: kit.write(entry.actor_key_id or tr("the service itself"), "span", "mono"),
        entry.address or "",
        lambda: kit.write(json.dumps(entry.detail, ensure_ascii=False) if entry.detail else "", "span", "small long"),
    ]


def _tenant(entry: Audit) -> None:
    if entry.tenant_name:
        ui.link(entry.tenant_name, f"/tenants/{entry.tenant_id}")
    elif entry.tenant_id:
        kit.write(tr("deleted {id}", id=words.tail(entry.tenant_id)), "span")


def _target(entry: Audit) -> None:
    if entry.target_name:
        kit.write(entry.target_name, "span")
    kit.write(entry.target, "div" if entry.target_name else "span", "mono small" if entry.target_name else "mono")
