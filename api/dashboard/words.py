"""Functions that format numbers, times and ids for the dashboard, in the page's language."""

import datetime
from collections.abc import Mapping
from zoneinfo import ZoneInfo

from fastapi import Request
from nicegui import ui

from api.dashboard import texts
from api.dashboard.texts import tr
from difffit.models import Adapter, AdminAdapter, Finetune, Generation

LIMITS = {
    "images_per_day": "Images per day",
    "stored_bytes": "Storage",
    "queued_generations": "Queued generations",
    "active_finetunes": "Fine-tunes at once",
    "validating_datasets": "Data sets checked at once",
    "webhooks": "Webhooks",
    "requests_per_minute": "Requests per minute",
}
"""Names of the quotas that an administrator can set for a tenant."""
ZONE_COOKIE = "difffit_zone"
"""Cookie with the name of the browser's time zone. A script of every page sets it."""

SAMPLING = {"shuffled": "Every image", "balanced": "Every class"}
KEPT = {"best": "The best step", "last": "The last step"}
CLASS_TABLE = {True: "trained", False: "kept"}
"""Words for the values of a fine-tune's `sampling`, `keep` and `train_class_table`."""


def count(number: float) -> str:
    return texts.number(number, ",.0f")


def size(number: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if number < 1000:
            return f"{texts.number(number, ',.0f' if unit == 'B' else ',.1f')} {unit}"
        number /= 1000
    return f"{texts.number(number, ',.1f')} TB"


def duration(seconds: float) -> str:
    if seconds < 10:
        return f"{texts.number(seconds, '.1f')} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{texts.number(seconds / 3600, '.1f')} h"


def limits(quotas: Mapping[str, int]) -> dict[str, str]:
    """Returns the values of a tenant's own quotas as texts, by the names of `LIMITS`."""
    return {
        tr(LIMITS.get(name, name)): size(limit) if name == "stored_bytes" else count(limit)
        for name, limit in quotas.items()
    }


def moment(time: datetime.datetime | None, never: str = "never") -> str:
    return time.astimezone(zone()).strftime(texts.current().moment) if time else tr(never)


def zone(request: Request | None = None) -> datetime.tzinfo:
    """Returns the time zone of the browser that sent the request, by default that of the page; UTC if it is unknown."""
    request = request or ui.context.client.request
    try:
        return ZoneInfo(request.cookies.get(ZONE_COOKIE, ""))
    except (KeyError, ValueError, OSError):
        return datetime.UTC


def several(number: int, word: str, words: str = "") -> str:
    """Returns a number with its noun in the singular or plural: `1 image`, `2 images`."""
    return f"{texts.number(number, ',')} {tr(word if number == 1 else words or word + 's')}"


def guidance(generation: Generation) -> str:
    """Returns the guidance scale of a generation, with a note if its version has learned guidance."""
    scale = texts.number(generation.guidance_scale, "g")
    return tr("{scale}, learned", scale=scale) if generation.learned_guidance else scale


def learned_guidance(finetune: Finetune) -> str:
    """Returns the highest guidance scale that a fine-tune teaches, and the number of steps; `none` without any."""
    if finetune.distill_guidance is None:
        return tr("none")
    steps = min(finetune.distill_steps, finetune.steps // 2)
    return tr(
        "up to {scale:g}, in the last {steps}",
        scale=finetune.distill_guidance,
        steps=several(steps, "step"),
    )


def version(adapter: Adapter | AdminAdapter, domain: str = "") -> str:
    """Returns the name of a version, with that of its domain if given."""
    name = tr("Version {version}", version=adapter.version) + (f", {adapter.name}" if adapter.name else "")
    return f"{domain}: {name}" if domain else name


def mix(generation: Generation, other: str) -> str:
    """Returns the mix of a generation, which mixes the version named `other` into its own."""
    return tr("mixed with {weight:.0%} of {other}", weight=generation.mix_weight, other=other)


def short(identifier: str) -> str:
    """Returns the first 12 characters of a digest, which are enough to tell digests apart."""
    return identifier[:12]


def tail(identifier: str) -> str:
    """Returns the last 8 characters of an id, since ids created at the same time begin alike."""
    return f"…{identifier[-8:]}"
