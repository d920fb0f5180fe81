"""The page of a tenant's usage and of what is left of its quotas."""

from nicegui import ui

from api.dashboard import kit, words
from api.dashboard.frame import frame
from api.dashboard.user import TenantUser
from api.schemas.usage import QuotaOut, UsageOut

_QUOTAS = {
    "queued_generations": "Drawings that wait",
    "active_finetunes": "Fine-tunes in work",
    "validating_datasets": "Data sets in work",
    "images_per_day": "Pictures today",
    "stored_bytes": "Stored",
    "webhooks": "Webhooks",
    "requests_per_minute": "Requests this minute",
}


@ui.page("/usage")
async def usage(user: TenantUser) -> None:
    with frame(user, "Usage", section="Usage"):
        found = await user.contract.get("/v1/usage", UsageOut)
        with kit.card("From the beginning on"):
            facts = {"Pictures": words.count(found.images), "Row steps": words.count(found.row_steps)}
            facts |= {"Training": words.duration(found.training_seconds), "Stored": words.size(found.stored_bytes)}
            kit.facts(facts)
        with kit.card("Limits", "An administrator can change them."), kit.box("quotas"):
            for name, quota in found.quotas.items():
                _quota(_QUOTAS.get(name, name.replace("_", " ")), quota, is_size=name == "stored_bytes")
        with kit.card("The last 30 days"):
            if not found.days:
                kit.muted("Nothing was used yet.")
                return
            rows = [
                (
                    f"{one.day:%d %b %Y}",
                    words.count(one.images),
                    words.count(one.row_steps),
                    words.duration(one.training_seconds),
                )
                for one in found.days
            ]
            kit.table("Days, newest first", ("Day", "Pictures", "Row steps", "Training"), rows)


def _quota(name: str, quota: QuotaOut, *, is_size: bool) -> None:
    shown = words.size if is_size else words.count
    with kit.box("quota"):
        with kit.box("row spread"):
            kit.write(name, "span")
            limit = ", no limit" if quota.limit is None else f" of {shown(quota.limit)}"
            kit.write(f"{shown(quota.used)}{limit}", "span", "small")
        if quota.limit:
            kit.bar(f"{name} used", quota.used / quota.limit)
