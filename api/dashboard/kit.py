"""The few building blocks that all pages share, so that they look and behave alike."""

from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from nicegui import ui
from nicegui.elements.mixins.text_element import TextElement

Control = TypeVar("Control", bound=ui.element)
Handler = Callable[[], object]
"""Action of a press. Only a coroutine is awaited, since an awaited dialog opens."""
Cell = str | Callable[[], object]
"""Text, or what draws the cell's content."""


def write(content: str, tag: str = "p", classes: str = "") -> TextElement:
    """A text in an element of its own; never read as HTML."""
    return TextElement(tag=tag, text=content).classes(classes)


def muted(content: str) -> TextElement:
    return write(content, classes="muted")


@contextmanager
def box(classes: str, tag: str = "div") -> Iterator[ui.element]:
    with ui.element(tag).classes(classes) as element:
        yield element


@contextmanager
def card(title: str = "", hint: str = "") -> Iterator[ui.element]:
    """A part of a page under its own heading."""
    with box("card", "section") as element:
        if title:
            write(title, "h2")
        if hint:
            muted(hint)
        yield element


def button(label: str, on_click: Handler | None = None, *, kind: str = "plain", icon: str | None = None) -> ui.button:
    """`kind`: primary, once a section at most; plain; quiet, without a border; danger. While its handler runs it
    cannot be pressed again."""

    async def pressed() -> None:
        assert on_click is not None
        made.disable()
        try:
            await _done(on_click)
        finally:
            if not made.is_deleted:
                made.enable()

    made = ui.button(label, on_click=pressed if on_click else None, color=None, icon=icon)
    return made.props("unelevated no-caps").classes(f"button {kind}")


def link_button(label: str, target: str, *, kind: str = "plain") -> ui.link:
    return ui.link(label, target).classes(f"button link-button {kind}", remove="nicegui-link")


def field(
    label: str, value: str = "", *, placeholder: str = "", hint: str = "", password: bool = False, lines: int = 1
) -> ui.input | ui.textarea:
    made = ui.input(label, value=value, password=password) if lines == 1 else ui.textarea(label, value=value)
    return _as_field(made.props(f'placeholder="{placeholder}"'), hint)


def number(label: str, value: float, *, least: float, most: float, step: float = 1, hint: str = "") -> ui.number:
    made = ui.number(label, value=value, min=least, max=most, step=step)
    return _as_field(made, hint)


def choice(label: str, options: dict[Any, str] | list[str], value: Any, *, hint: str = "") -> ui.select:
    return _as_field(ui.select(options, label=label, value=value), hint)


def _as_field(element: Control, hint: str) -> Control:
    hinted = f' hint="{hint}"' if hint else " hide-bottom-space"
    return element.props(f"outlined stack-label{hinted}").classes("field")


def badge(word: str) -> TextElement:
    """A state, by its word and a colour."""
    return write(word, "span", f"badge {_TONES.get(word, '')}")


def facts(pairs: dict[str, str]) -> None:
    with box("facts", "dl"):
        for name, value in pairs.items():
            with box("fact long" if len(value) >= _LONG and " " not in value else "fact"):
                write(name, "dt")
                write(value, "dd")


def empty(title: str, hint: str) -> None:
    """Shows in place of an empty list what it will hold, and how to get there."""
    with box("empty"):
        write(title, "p", "empty-title")
        muted(hint)


def picture(url: str, description: str, classes: str = "picture") -> ui.element:
    made = ui.element("img").classes(classes)
    made.props["src"], made.props["alt"], made.props["loading"] = url, description, "lazy"
    return made


def code(content: str, label: str = "Copy") -> None:
    """A text to be copied, with the button that does it."""

    def copy() -> None:
        ui.clipboard.write(content)
        said("Copied.")

    with box("code"):
        write(content, "pre").props("tabindex=0")
        button(label, copy, kind="quiet", icon="content_copy")


def table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """On a narrow screen every row becomes a list of its named cells."""
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


def bar(label: str, share: float) -> ui.element:
    """Shows a fraction, from 0 to 1, as a bar."""
    made = ui.element("progress").classes("bar")
    made.props["aria-label"], made.props["max"], made.props["value"] = label, 1, min(share, 1)
    return made


@contextmanager
def dialog(title: str) -> Iterator[ui.dialog]:
    with ui.dialog().props(f'aria-label="{title}"') as made, box("dialog"):
        write(title, "h2")
        yield made


def confirm(title: str, detail: str, verb: str, action: Handler) -> None:
    """Asks before what cannot be undone."""

    async def confirmed() -> None:
        asked.close()
        await _done(action)

    with dialog(title) as asked:
        write(detail)
        with box("row end"):
            button("Keep it", asked.close)
            button(verb, confirmed, kind="danger")
    asked.open()


def said(message: str) -> None:
    """Notifies that something was done."""
    ui.notify(message, position="bottom", classes="said")


async def _done(handler: Handler) -> None:
    result = handler()
    if isinstance(result, Coroutine):
        await result


_LONG = 24
"""Characters of an id or a digest."""
_TONES = {
    **dict.fromkeys(("ready", "succeeded", "active", "alive"), "good"),
    **dict.fromkeys(("running", "validating", "queued"), "busy"),
    **dict.fromkeys(("failed", "rejected", "quarantined", "revoked"), "bad"),
}
