"""Page of a tenant's usage and quotas."""

from api.dashboard import kit, words
from api.dashboard.frame import frame, page
from api.dashboard.user import TenantUser
from difffit.models import Quota

_QUOTAS = {
    "queued_generations": "Queued generations",
    "active_finetunes": "Active fine-tunes",
    "validating_datasets": "Data sets being checked",
    "images_per_day": "Images today",
    "stored_bytes": "Stored",
    "webhooks": "Webhooks",
    "requests_per_minute": "Requests this minute",
}


@page("/usage")
async def usage(user: TenantUser) -> None:
    with frame(user, "Usage", section="Usage"):
        totals = await user.api.usage()
        with kit.card("Total"):
            facts = {"Images": words.count(totals.images), "Model evaluations": words.count(totals.model_evaluations)}
            facts |= {"Training": words.duration(totals.training_seconds), "Stored": words.size(totals.stored_bytes)}
            kit.facts(facts)
        with kit.card("Limits", "An administrator can change them."), kit.box("quotas"):
            for name, quota in totals.quotas.items():
                _quota(_QUOTAS.get(name, name.replace("_", " ")), quota, is_size=name == "stored_bytes")
        with kit.card("The last 30 days"):
            if not totals.days:
                kit.muted("No usage yet.")
                return
            rows = [
                (
                    f"{day.day:%d %b %Y}",
                    words.count(day.images),
                    words.count(day.model_evaluations),
                    words.duration(day.training_seconds),
                )
                for day in totals.days
            ]
            kit.table("Days, newest first", ("Day", "Images", "Model evaluations", "Training"), rows)


def _quota(name: str, quota: Quota, *, is_size: bool) -> None:
    shown = words.size if is_size else words.count
    with kit.box("quota"):
        with kit.box("row spread"):
            kit.write(name, "span")
            limit = ", no limit" if quota.limit is None else f" of {shown(quota.limit)}"
            kit.write(f"{shown(quota.used)}{limit}", "span", "small")
        if quota.limit:
            kit.bar(f"{name} used", quota.used / quota.limit, may_be_full=True)
