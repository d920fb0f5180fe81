"""Card with the usage of a tenant on each of the last days."""

from collections.abc import Sequence

from api.dashboard import kit, texts, words
from api.dashboard.texts import tr
from difffit.models import TenantUsageDay, UsageDay


def days_card(days: Sequence[UsageDay | TenantUsageDay]) -> None:
    """Adds a card with a row for each day, newest first."""
    with kit.card(tr("The last 30 days")):
        if not days:
            kit.muted(tr("No usage yet."))
            return
        rows = [
            (
                texts.day(day.day),
                words.count(day.images),
                words.count(day.model_evaluations),
                words.duration(day.training_seconds),
            )
            for day in days
        ]
        kit.table(tr("Days, newest first"), (tr("Day"), tr("Images"), tr("Model evaluations"), tr("Training")), rows)
