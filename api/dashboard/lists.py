"""Parts of pages that show a list: filters above it, and links to its other pages below it."""

from typing import Any

from nicegui import ui
from nicegui.elements.mixins.value_element import ValueElement

from api.dashboard import kit
from api.dashboard.forms import Form, address_text, press_on_enter
from api.dashboard.texts import tr

_FIRST = "-"
"""Stands for the first page, which has no cursor, in a trail of cursors."""
_MAX_TRAIL = 50


def filter_buttons(path: str, unfiltered: str = "", /, **controls: ValueElement[Any]) -> None:
    """Adds buttons below the filters of a list. One shows the list at `path` with the filters' values in the address,
    by their names, as Enter in a field does; the other, with the label `unfiltered`, shows the list without filters."""

    def show() -> None:
        if Form(**controls).is_valid():
            ui.navigate.to(
                kit.with_query(path, {name: address_text(control.value) for name, control in controls.items()})
            )

    with kit.box("row"):
        submitter = kit.button(tr("Show"), show, kind="primary")
        kit.link_button(unfiltered or tr("Show all"), path)
    for control in controls.values():
        if isinstance(control, ui.input | ui.number):
            press_on_enter(control, submitter)


def pager(
    noun: str,
    path: str,
    next_cursor: str | None,
    filters: dict[str, str] | None = None,
    names: tuple[str, str, str] = ("Newest {noun}", "Newer {noun}", "Older {noun}"),
) -> None:
    """Adds links from a page of a list to its first page, the page before and the next page, which are labelled with
    `names`. The API lists only forwards, so the address has the cursors of the pages before, in
    `trail`."""
    first, before, after = names
    query = ui.context.client.request.query_params
    cursor = query.get("cursor", "")
    trail = [place for place in query.get("trail", "").split(",") if place]
    shown = {name: value for name, value in (filters or {}).items() if value}
    links = {}
    if cursor and trail != [_FIRST]:
        links[tr(first, noun=tr(noun))] = shown
    if trail:
        previous = "" if trail[-1] == _FIRST else trail[-1]
        links[tr(before, noun=tr(noun))] = {**shown, "cursor": previous, "trail": ",".join(trail[:-1])}
    if next_cursor:
        passed = [*trail, cursor or _FIRST][-_MAX_TRAIL:]
        links[tr(after, noun=tr(noun))] = {**shown, "cursor": next_cursor, "trail": ",".join(passed)}
    if links:
        with kit.box("row", "nav") as navigation:
            navigation.props["aria-label"] = tr("Pages of the list")
            for label, target in links.items():
                kit.link_button(label, kit.with_query(path, target))
