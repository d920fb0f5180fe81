"""Card with the usage of a tenant on each day of a period."""

import datetime
from collections.abc import Awaitable, Callable, Sequence

from api.dashboard import kit, texts, words
from api.dashboard.frame import showing_problems
from api.dashboard.lists import filter_buttons
from api.dashboard.texts import tr
from difffit.models import TenantUsageDay, UsageDay

Load = Callable[[datetime.date | None, datetime.date | None], Awaitable[Sequence[UsageDay | TenantUsageDay]]]
"""Function that returns the days of a period, newest first; None stands for the API's default."""


async def days_card(path: str, from_day: str, to_day: str, load: Load) -> None:
    """Adds a card with a row for each day of a period, by default of the last 30 days, and with fields to choose the
    period, which is in the address of the page at `path`."""
    with kit.card(tr("Usage per day") if from_day or to_day else tr("The last 30 days")):
        with kit.box("fields compact"):
            controls = {"from_day": kit.day(tr("From"), from_day), "to_day": kit.day(tr("Until"), to_day)}
        filter_buttons(path, tr("The last 30 days"), **controls)
        with showing_problems():
            _table(await load(_day(from_day), _day(to_day)))


def _table(days: Sequence[UsageDay | TenantUsageDay]) -> None:
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


def _day(text: str) -> datetime.date | None:
    """Returns the day in an address; None if the text is no day."""
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        return None
