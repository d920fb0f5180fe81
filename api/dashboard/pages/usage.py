"""Page of a tenant's usage and quotas."""

import datetime

from api.dashboard import kit, words
from api.dashboard.days import days_card
from api.dashboard.frame import frame, page
from api.dashboard.texts import tr
from api.dashboard.user import TenantUser
from difffit.models import Quota, UsageDay

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
async def usage(user: TenantUser, from_day: str = "", to_day: str = "") -> None:
    async def days(first: datetime.date | None, last: datetime.date | None) -> list[UsageDay]:
        period = totals if first is last is None else await user.api.usage(from_day=first, to_day=last)
        return period.days

    with frame(user, tr("Usage"), section="Usage"):
        totals = await user.api.usage()
        with kit.card(tr("Total")):
            facts = {
                tr("Images"): words.count(totals.images),
                tr("Model evaluations"): words.count(totals.model_evaluations),
            }
            facts |= {
                tr("Training"): words.duration(totals.training_seconds),
                tr("Stored"): words.size(totals.stored_bytes),
            }
            kit.facts(facts)
        with kit.card(tr("Limits"), tr("An administrator can change them.")), kit.box("quotas"):
            for name, quota in totals.quotas.items():
                _quota(tr(_QUOTAS.get(name, name.replace("_", " "))), quota, is_size=name == "stored_bytes")
        await days_card("/usage", from_day, to_day, days)


def _quota(name: str, quota: Quota, *, is_size: bool) -> None:
    shown = words.size if is_size else words.count
    with kit.box("quota"):
        with kit.box("row spread"):
            kit.write(name, "span")
            used = shown(quota.used)
            unlimited = tr("{used}, no limit", used=used)
            line = unlimited if quota.limit is None else tr("{used} of {limit}", used=used, limit=shown(quota.limit))
            kit.write(line, "span", "small")
        if quota.limit:
            kit.bar(tr("{name} used", name=name), quota.used / quota.limit, may_be_full=True)
