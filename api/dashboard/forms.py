"""Forms whose values are checked next to their fields, and kept in the page's address so that they survive a reload."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nicegui import ui
from nicegui.elements.mixins.validation_element import ValidationElement
from nicegui.elements.mixins.value_element import ValueElement

from api.dashboard import kit
from api.dashboard.texts import problem, tr
from difffit.errors import InvalidRequest, NameTaken

NAME_LENGTH = 200
"""Maximum number of characters in the names of tenants, domains and data sets."""


class Form:
    """Controls of a form, by the names that their values have in the API."""

    def __init__(self, **controls: ValueElement[Any]) -> None:
        self.controls = controls

    def is_valid(self) -> bool:
        """Returns whether all values of visible controls are valid. Otherwise, moves the focus to the first invalid
        control; each invalid control shows its error."""
        checked = [control for control in self.controls.values() if isinstance(control, ValidationElement)]
        wrong = [control for control in checked if control.visible and not control.validate()]
        if wrong:
            wrong[0].run_method("focus")
        return not wrong

    @contextmanager
    def showing_problems(self) -> Iterator[None]:
        """Shows the API's errors of single fields next to these fields. Other errors pass through."""
        try:
            yield
        except (InvalidRequest, NameTaken) as error:
            entries = error.errors or [{"field": "name", "detail": error.detail}]
            named = {
                str(entry.get("field", "")).rpartition(".")[2]: problem(
                    str(entry.get("code", error.code)), str(entry.get("detail", ""))
                )
                for entry in entries
            }
            controls = {name: self.controls.get(name) for name in named}
            if not all(isinstance(control, ValidationElement) for control in controls.values()):
                raise
            for name, control in controls.items():
                assert isinstance(control, ValidationElement)
                control.error = named[name]

    def keep(self) -> None:
        """Fills the controls with the values in the page's address, and from now on writes each change there."""
        query = ui.context.client.request.query_params
        for name, control in self.controls.items():
            if (value := _parsed(control, query.get(name))) is not None:
                control.value = value
            control.on_value_change(lambda event, name=name: keep({name: event.value}))


def keep(values: dict[str, Any]) -> None:
    """Writes values into the page's address. None and an empty text remove the value."""
    texts = {name: address_text(value) for name, value in values.items()}
    ui.run_javascript(f"difffit.keep({json.dumps(texts)})")


@contextmanager
def form_dialog(title: str, verb: str, submit: kit.Handler) -> Iterator[ui.dialog]:
    """Opens a dialog with fields, which the caller adds inside the context. `verb` labels the button that submits them;
    Enter does the same. After a change, the dialog closes only by its buttons, so that no typed text is lost."""
    changed = set[int]()
    with kit.dialog(title) as asked, kit.box("form") as form:
        yield asked
        with kit.box("row end"):
            kit.button(tr("Cancel"), asked.close)
            submitter = kit.button(verb, submit, kind="primary")
    for control in form.descendants():
        if isinstance(control, ValueElement):
            control.on_value_change(lambda event: changed.add(event.sender.id))
        if isinstance(control, ui.input | ui.number):
            press_on_enter(control, submitter)
    # Quasar closes a dialog in the browser, before the server knows of a change, so Escape is handled here instead.
    asked.props("persistent")
    form.on("keydown.escape", lambda: None if changed else asked.close())
    asked.open()


def text_of(control: ui.input | ui.textarea) -> str | None:
    """Returns the text of a field without spaces at its ends, or None if the field is empty."""
    return (control.value or "").strip() or None


def show_secret(title: str, secret: str) -> None:
    """Opens a dialog with a secret that cannot be shown again. Closing it reloads the page."""
    with kit.dialog(title) as shown:
        kit.write(tr("Copy it now. It is not shown again."))
        kit.code(secret)
        with kit.box("row end"):
            kit.button(tr("Done"), kit.reload, kind="primary")
    shown.props("persistent")
    shown.open()


def press_on_enter(control: ui.input | ui.number, submitter: ui.button) -> None:
    """Lets the Enter key in a field press a button."""
    control.on("keydown.enter", js_handler=f"() => getHtmlElement({submitter.id}).click()")


def address_text(value: Any) -> str:
    """Returns the value of a control as it is written in the page's address; None is an empty text."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return f"{value:.16g}" if isinstance(value, float) else "" if value is None else str(value)


def _parsed(control: ValueElement[Any], written: str | None) -> Any:
    """Returns the value that a control has if the page's address contains `written`; None if it has no such value."""
    if written is None:
        return None
    if isinstance(control, ui.select):
        return next((option for option in control.options if address_text(option) == written), None)
    if isinstance(control, ui.checkbox):
        return written == "true"
    return number_of(written) if isinstance(control, ui.number | ui.slider) else written


def number_of(written: str) -> float | None:
    """Returns the number that a text contains; None if it contains no finite number."""
    try:
        number = float(written)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
