"""Building blocks of the dashboard's pages, such as cards, buttons and tables, so that all pages look and behave
alike."""

import json
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import urlencode

from nicegui import background_tasks, ui
from nicegui.elements.mixins.text_element import TextElement

from api.dashboard.texts import problem, tr

Control = TypeVar("Control", bound=ui.element)
Handler = Callable[[], object]
"""Function that a button calls. A coroutine that it returns is awaited, but no other awaitable, since awaiting a
NiceGUI dialog would open it."""
Cell = str | Callable[[], object]
"""Content of a table cell: text, or a function that adds elements to the cell."""


def write(content: str, tag: str = "p", classes: str = "") -> TextElement:
    """Adds an HTML element with text. The text is escaped, so it cannot contain HTML."""
    return TextElement(tag=tag, text=content).classes(classes)


def muted(content: str) -> TextElement:
    return write(content, classes="muted")


def original(code: str, detail: str) -> None:
    """Adds a message of the API in its own words, which the user can open, if the page shows a sentence without them
    instead."""
    if detail not in problem(code, detail):
        with box("more", "details"):
            write(tr("Details"), "summary")
            muted(detail).props("lang=en")


@contextmanager
def box(classes: str, tag: str = "div") -> Iterator[ui.element]:
    with ui.element(tag).classes(classes) as element:
        yield element


@contextmanager
def card(title: str = "", hint: str = "") -> Iterator[ui.element]:
    """Adds a section with an optional heading and an explanation. The caller adds the content inside the context."""
    with box("card", "section") as element:
        if title:
            write(title, "h2")
        if hint:
            muted(hint)
        yield element


def button(label: str, on_click: Handler | None = None, *, kind: str = "plain", icon: str | None = None) -> ui.button:
    """Adds a button, which ignores presses while its handler runs. `kind` is its style: primary (at most one per
    section), plain, quiet (without a border) or danger."""
    is_running = False

    async def pressed() -> None:
        nonlocal is_running
        assert on_click is not None
        if is_running:
            return
        is_running = True
        element.props("aria-disabled=true")  # unlike a disabled button, it keeps the keyboard's focus
        try:
            await _done(on_click)
        finally:
            is_running = False
            if not element.is_deleted:
                element.props(remove="aria-disabled")

    element = ui.button(label, on_click=pressed if on_click else None, color=None, icon=icon)
    return element.props("unelevated no-caps").classes(f"button {kind}")


def link_button(label: str, target: str, *, kind: str = "plain") -> ui.link:
    return ui.link(label, target).classes(f"button link-button {kind}", remove="nicegui-link")


def field(
    label: str,
    value: str = "",
    *,
    placeholder: str = "",
    hint: str = "",
    password: bool = False,
    lines: int = 1,
    needed: str = "",
    most: int = 0,
) -> ui.input | ui.textarea:
    """Adds a text field. `needed` is the message for an empty field, if it must not be empty; `most` is the maximum
    number of characters."""

    def problem(text: str | None) -> str | None:
        if needed and not (text or "").strip():
            return needed
        return tr("At most {most:,} characters.", most=most) if most and len(text or "") > most else None

    if lines == 1:
        element: ui.input | ui.textarea = ui.input(label, value=value, password=password, validation=problem)
    else:
        element = ui.textarea(label, value=value, validation=problem)
    return _as_field(element.props(f'placeholder="{placeholder}"'), hint)


def day(label: str, value: str) -> ui.input | ui.textarea:
    """Adds a field for a day, such as 2026-11-23."""
    return field(label, value).props("type=date")


def number(
    label: str,
    value: float | None,
    *,
    least: float,
    most: float,
    step: float = 1,
    whole: bool = True,
    may_be_empty: bool = False,
    hint: str = "",
) -> ui.number:
    """Adds a field for a number, which must be from `least` to `most`, and without a fraction if `whole`. An empty
    field has the value None, which is an error unless the field `may_be_empty`."""
    # The limits are only told to the browser: NiceGUI's own limits would silently change what the user enters.
    validation = _within(least, most, whole=whole, may_be_empty=may_be_empty)
    element = ui.number(label, value=value, step=step, format="%.16g", validation=validation)
    return _as_field(element.props(f":min={least} :max={most}"), hint)


def fraction(label: str, value: float, *, step: float = 0.05) -> ui.slider:
    """Adds a slider for a number from 0 to 1, with its label and its value in percent above it."""
    text = write("", "span", "small")
    element = ui.slider(min=0, max=1, step=step, value=value).props(f'aria-label="{label}"')
    text.bind_text_from(element, "value", lambda value: f"{label}: {value:.0%}")
    return element


def limit(element: ui.number, least: float, most: float) -> None:
    """Changes the limits of a field for a number with a fraction. A number outside them becomes the nearest limit."""
    if element.value is not None:
        element.value = min(max(element.value, least), most)
    element.props(f":min={least} :max={most}")
    element.validation = _within(least, most, whole=False)


def _within(
    least: float, most: float, *, whole: bool, may_be_empty: bool = False
) -> Callable[[float | None], str | None]:
    def problem(entered: float | None) -> str | None:
        if entered is None and may_be_empty:
            return None
        if entered is None or not least <= entered <= most:
            return tr("Enter a number from {least:,} to {most:,}.", least=least, most=most)
        return tr("Enter a whole number.") if whole and entered != int(entered) else None

    return problem


def choice(label: str, options: dict[Any, str] | list[str], value: Any, *, hint: str = "") -> ui.select:
    return _as_field(ui.select(options, label=label, value=value), hint)


def _as_field(element: Control, hint: str) -> Control:
    hinted = f' hint="{hint}"' if hint else ""
    return element.props(f"outlined stack-label hide-bottom-space no-error-icon{hinted}").classes("field")


def badge(word: str) -> TextElement:
    """Adds a status such as `ready`, in the page's language and in the colour that belongs to it."""
    return write(tr(word), "span", f"badge {_TONES.get(word, '')}")


def facts(pairs: dict[str, str]) -> None:
    with box("facts", "dl"):
        for name, value in pairs.items():
            with box("fact long" if len(value) >= _LONG and " " not in value else "fact"):
                write(name, "dt")
                write(value, "dd")


def empty(title: str, hint: str) -> None:
    """Adds a placeholder for an empty list, with the next step to take."""
    with box("empty"):
        write(title, "p", "empty-title")
        muted(hint)


def picture(url: str, description: str, classes: str = "picture") -> ui.element:
    element = ui.element("img").classes(classes)
    element.props["src"], element.props["alt"], element.props["loading"] = url, description, "lazy"
    return element


def code(content: str) -> None:
    """Adds preformatted text with a button that copies the text to the clipboard."""

    def copy() -> None:
        ui.clipboard.write(content)
        said(tr("Copied."))

    with box("code"):
        write(content, "pre").props("tabindex=0")
        button(tr("Copy"), copy, kind="quiet", icon="content_copy")


def table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Adds a table. On narrow screens, each row is shown as a list of its cells with their column names."""
    with box("table-frame"), box("table", "table"):
        write(caption, "caption", "visually-hidden")
        with ui.element("thead"), ui.element("tr"):
            for column in columns:
                with ui.element("th").props("scope=col"):
                    write(column or tr("Actions"), "span", "" if column else "visually-hidden")
        with ui.element("tbody"):
            for row in rows:
                with ui.element("tr"):
                    for column, cell in zip(columns, row, strict=True):
                        _cell(column, cell)


def _cell(column: str, cell: Cell) -> None:
    with ui.element("td") as element:
        element.props["data-label"] = column
        if isinstance(cell, str):
            write(cell, "span")
        else:
            cell()


def with_query(path: str, query: dict[str, str]) -> str:
    """Returns a path with a query of the values that are not empty."""
    return f"{path}?{urlencode({name: value for name, value in query.items() if value})}".removesuffix("?")


def bar(label: str, fraction: float, *, may_be_full: bool = False) -> ui.element:
    """Adds a progress bar that shows a fraction from 0 to 1. `may_be_full` says that 1 is a limit, not a success."""
    element = ui.element("progress").classes("bar")
    element.props["aria-label"], element.props["max"], element.props["value"] = label, 1, min(fraction, 1)
    return element.classes("full" if fraction >= 1 and may_be_full else "")


@contextmanager
def dialog(title: str) -> Iterator[ui.dialog]:
    with ui.dialog() as element, box("dialog"):
        element.props["aria-label"] = title
        write(title, "h2")
        yield element


def delete_button(name: str, verb: str, detail: str, delete: Handler) -> ui.button:
    """Adds a button that deletes something after the user has confirmed it. `name` says what, such as `version 2`,
    `detail` what else is affected, and `verb` labels the button that confirms."""
    detail = tr("{detail} This cannot be undone.", detail=detail)
    element = button(tr("Delete"), lambda: confirm(tr("Delete {name}?", name=name), detail, verb, delete), kind="quiet")
    element.props["aria-label"] = tr("Delete {name}", name=name)
    return element


def confirm(title: str, detail: str, verb: str, action: Handler) -> None:
    """Opens a dialog that runs an irreversible action after the user has confirmed it. `verb` labels the button."""

    async def confirmed() -> None:
        asked.close()
        await _done(action)

    with dialog(title) as asked:
        write(detail)
        with box("row end"):
            button(tr("Cancel"), asked.close)
            button(verb, confirmed, kind="danger")
    asked.open()


def said(message: str) -> None:
    """Shows a notification that an action has succeeded."""
    ui.notify(message, position="bottom")


def refused(title: str, detail: str) -> None:
    """Shows a notification that an action has failed, in place of the previous such notification. It stays until it is
    closed."""
    ui.notify(
        title,
        caption=detail,
        position="bottom",
        classes="refused",
        group="refused",
        close_button=tr("Close"),
        timeout=0,
    )


def reload() -> None:
    """Reloads the page, unless the user is leaving it at this moment."""
    ui.run_javascript("difffit.reload()")


def ended(message: str) -> None:
    """Tells a user who looks at another tab that a job has ended: by the tab's title and icon, and by a notification if
    the user has allowed them."""
    ui.run_javascript(f"difffit.ended({json.dumps(message)})")


def notifications_button() -> None:
    """Adds a button that asks the browser for notifications. It is hidden if the user has already decided."""
    element = button(tr("Notify me when it ends"), kind="quiet", icon="notifications").classes("allow-notifications")
    element.on("click", js_handler="() => difffit.allowNotifications()")


def in_background(work: Coroutine[Any, Any, None]) -> None:
    """Runs a coroutine until it ends or its page is closed, in the page's language."""
    client = ui.context.client

    async def run() -> None:
        with client:
            await work

    task = background_tasks.create(run())
    client.on_delete(lambda: task.cancel() and None)


async def _done(handler: Handler) -> None:
    result = handler()
    if isinstance(result, Coroutine):
        await result


NO_WORKER = "In the queue. No worker is running; ask your administrator to start one."
_LONG = 24
"""Number of characters from which `facts` shows a value without spaces, such as an id or a digest, on its own line."""
_TONES = {
    **dict.fromkeys(("ready", "succeeded", "active", "alive", "enabled"), "good"),
    **dict.fromkeys(("running", "validating", "queued", "cancelling", "pending"), "busy"),
    **dict.fromkeys(("failed", "rejected", "quarantined", "revoked", "expired"), "bad"),
}
