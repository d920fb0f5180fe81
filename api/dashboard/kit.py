"""Building blocks of the dashboard's pages, such as cards, buttons and tables, so that all pages look and behave
alike."""

from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from nicegui import ui
from nicegui.elements.mixins.text_element import TextElement

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
    """Adds a button, which is disabled while its handler runs. `kind` is its style: primary (at most one per section),
    plain, quiet (without a border) or danger."""

    async def pressed() -> None:
        assert on_click is not None
        element.disable()
        try:
            await _done(on_click)
        finally:
            if not element.is_deleted:
                element.enable()

    element = ui.button(label, on_click=pressed if on_click else None, color=None, icon=icon)
    return element.props("unelevated no-caps").classes(f"button {kind}")


def link_button(label: str, target: str, *, kind: str = "plain") -> ui.link:
    return ui.link(label, target).classes(f"button link-button {kind}", remove="nicegui-link")


def field(
    label: str, value: str = "", *, placeholder: str = "", hint: str = "", password: bool = False, lines: int = 1
) -> ui.input | ui.textarea:
    element = ui.input(label, value=value, password=password) if lines == 1 else ui.textarea(label, value=value)
    return _as_field(element.props(f'placeholder="{placeholder}"'), hint)


def number(label: str, value: float, *, least: float, most: float, step: float = 1, hint: str = "") -> ui.number:
    element = ui.number(label, value=value, min=least, max=most, step=step)
    return _as_field(element, hint)


def choice(label: str, options: dict[Any, str] | list[str], value: Any, *, hint: str = "") -> ui.select:
    return _as_field(ui.select(options, label=label, value=value), hint)


def _as_field(element: Control, hint: str) -> Control:
    hinted = f' hint="{hint}"' if hint else " hide-bottom-space"
    return element.props(f"outlined stack-label{hinted}").classes("field")


def badge(word: str) -> TextElement:
    """Adds a status such as `ready`, in the colour that belongs to it."""
    return write(word, "span", f"badge {_TONES.get(word, '')}")


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


def code(content: str, label: str = "Copy") -> None:
    """Adds preformatted text with a button that copies the text to the clipboard."""

    def copy() -> None:
        ui.clipboard.write(content)
        said("Copied.")

    with box("code"):
        write(content, "pre").props("tabindex=0")
        button(label, copy, kind="quiet", icon="content_copy")


def table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Adds a table. On narrow screens, each row is shown as a list of its cells with their column names."""
    with box("table-frame"), box("table", "table"):
        write(caption, "caption", "visually-hidden")
        with ui.element("thead"), ui.element("tr"):
            for column in columns:
                write(column, "th").props("scope=col")
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


def bar(label: str, fraction: float) -> ui.element:
    """Adds a progress bar that shows a fraction from 0 to 1."""
    element = ui.element("progress").classes("bar")
    element.props["aria-label"], element.props["max"], element.props["value"] = label, 1, min(fraction, 1)
    return element


@contextmanager
def dialog(title: str) -> Iterator[ui.dialog]:
    with ui.dialog().props(f'aria-label="{title}"') as element, box("dialog"):
        write(title, "h2")
        yield element


def confirm(title: str, detail: str, verb: str, action: Handler) -> None:
    """Opens a dialog that runs an irreversible action after the user has confirmed it. `verb` labels the button."""

    async def confirmed() -> None:
        asked.close()
        await _done(action)

    with dialog(title) as asked:
        write(detail)
        with box("row end"):
            button("Cancel", asked.close)
            button(verb, confirmed, kind="danger")
    asked.open()


def said(message: str) -> None:
    """Shows a notification that an action has succeeded."""
    ui.notify(message, position="bottom", classes="said")


async def _done(handler: Handler) -> None:
    result = handler()
    if isinstance(result, Coroutine):
        await result


_LONG = 24
"""Number of characters from which `facts` shows a value without spaces, such as an id or a digest, on its own line."""
_TONES = {
    **dict.fromkeys(("ready", "succeeded", "active", "alive"), "good"),
    **dict.fromkeys(("running", "validating", "queued"), "busy"),
    **dict.fromkeys(("failed", "rejected", "quarantined", "revoked"), "bad"),
}
