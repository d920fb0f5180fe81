"""Filters of the gallery: their fields, and their values in the page's address."""

import datetime
from typing import Annotated, Any

from fastapi import Depends, Request
from nicegui import ui
from nicegui.elements.mixins.value_element import ValueElement

from api.dashboard import kit, words
from api.dashboard.forms import number_of
from api.dashboard.lists import filter_buttons
from api.dashboard.texts import tr, tr_all
from difffit.filters import ImageFilters
from difffit.models import Adapter

NAMES = ("domain_id", "class_name", "adapter_id", "since", "until", "seed", "marked", "label")
_MARKED = {"": "Any", "true": "Favourites", "false": "Not favourites"}
_MAX_SEED = 2**53 - 1
_LABEL_LENGTH = 200
_YEARS = range(1971, 9000)


def get_filters(request: Request) -> dict[str, str]:
    """Returns the filters in the page's address, by name."""
    return {name: value for name in NAMES if (value := request.query_params.get(name))}


Filters = Annotated[dict[str, str], Depends(get_filters)]


def selected(filters: dict[str, str], request: Request) -> ImageFilters:
    """Returns the filters as the API's client takes them. Days are those of the browser's time zone. Values that no
    field can have are left out."""
    zone = words.zone(request)
    seed = number_of(filters.get("seed", ""))
    return {
        "class_name": filters.get("class_name"),
        "adapter_id": filters.get("adapter_id"),
        "created_after": _midnight(filters.get("since", ""), zone),
        "created_before": _midnight(filters.get("until", ""), zone, days=1),
        "seed": int(seed) if seed is not None and 0 <= seed <= _MAX_SEED else None,
        "favourite": {"true": True, "false": False}.get(filters.get("marked", "")),
        "label": filters.get("label"),
    }


def _midnight(text: str, zone: datetime.tzinfo, days: int = 0) -> datetime.datetime | None:
    """Returns the beginning of a day, or of one some days later; None if the text is no date."""
    try:
        day = datetime.date.fromisoformat(text)
    except ValueError:
        return None
    if day.year not in _YEARS:
        return None
    return datetime.datetime.combine(day + datetime.timedelta(days), datetime.time(), zone)


def filter_fields(path: str, filters: dict[str, str], adapters: list[Adapter], domains: dict[str, str] | None) -> None:
    """Adds the fields, with the classes and versions of `adapters` as choices. With the names of domains by id, adds a
    field for the domain, and names the domain of each version."""
    versions = {adapter.id: words.version(adapter) for adapter in adapters}
    if domains is not None:
        owners = {adapter.id: domains.get(adapter.domain_id, "") for adapter in adapters}
        versions = {id: f"{owners[id]}: {name}" for id, name in versions.items()}
    marked = filters.get("marked", "")
    controls: dict[str, ValueElement[Any]] = {}
    with kit.box("fields compact"):
        if domains is not None:
            controls["domain_id"] = _choice(tr("Domain"), domains, "")
        names = sorted({name for adapter in adapters for name in adapter.class_names})
        controls["class_name"] = _choice(tr("Class"), {name: name for name in names}, filters.get("class_name", ""))
        versions["base"] = tr("Base model")
        controls["adapter_id"] = _choice(tr("Version"), versions, filters.get("adapter_id", ""))
        controls["marked"] = kit.choice(tr("Favourites"), tr_all(_MARKED), marked if marked in _MARKED else "")
        controls["since"] = kit.day(tr("From"), filters.get("since", ""))
        controls["until"] = kit.day(tr("Until"), filters.get("until", ""))
        seed = number_of(filters.get("seed", ""))
        controls["seed"] = kit.number(tr("Seed"), seed, least=0, most=_MAX_SEED, may_be_empty=True)
        controls["label"] = kit.field(tr("Label contains"), filters.get("label", ""), most=_LABEL_LENGTH)
    filter_buttons(path, **controls)


def _choice(label: str, options: dict[str, str], chosen: str) -> ui.select:
    """Adds a choice of one option or of any. A chosen value that is no option, such as a version that was deleted,
    stays chosen."""
    kept = {chosen: chosen} if chosen and chosen not in options else {}
    return kit.choice(label, {"": tr("Any"), **options, **kept}, chosen)
