"""Texts of the pages in the language of the browser. The code has them in English; a file in `languages/` has them, the
API's messages, and the forms of numbers and times, in another language."""

import datetime
import string
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, TypeVar

from fastapi import Request
from nicegui import ui
from nicegui.language import Language
from nicegui.slot import Slot

Key = TypeVar("Key")
_FOLDER = Path(__file__).parent / "languages"
_HEADERS = 256
"""Maximum number of different Accept-Language headers that are remembered."""


@dataclass(frozen=True)
class Catalogue:
    """Language of the pages. The defaults are English."""

    quasar: Language = "en-US"
    """Name of the language in NiceGUI and Quasar, which have texts of their own."""
    decimal: str = "."
    thousands: str = ","
    moment: str = "%d %b %Y, %H:%M"
    """Format of a time, for `strftime`."""
    day: str = "%d %b %Y"
    texts: Mapping[str, str] = field(default_factory=dict)
    """Texts by their English texts."""
    problems: Mapping[str, str] = field(default_factory=dict)
    """Sentences for the API's messages, by their codes. `{detail}` stands for the message itself, which is English."""

    def number(self, value: float, spec: str = "") -> str:
        """Returns a number in the format `spec`, with the language's signs."""
        return format(value, spec).translate(str.maketrans(".,", self.decimal + self.thousands))

    def problem(self, code: str, detail: str) -> str:
        """Returns the message `detail` of the API in this language, or unchanged if its code has no sentence here."""
        return self.problems.get(code, "{detail}").replace("{detail}", detail)


class _Formatter(string.Formatter):
    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue

    def format_field(self, value: Any, format_spec: str) -> str:
        if isinstance(value, int | float):
            return self.catalogue.number(value, format_spec)
        return str(super().format_field(value, format_spec))


_PLAIN: ContextVar[Catalogue | None] = ContextVar("catalogue of a page without NiceGUI", default=None)


def tr(text: str, /, **values: object) -> str:
    """Returns a text in the page's language, with `values` in the places that have their names."""
    catalogue = current()
    return _Formatter(catalogue).vformat(catalogue.texts.get(text, text), (), values)


def tr_all(options: Mapping[Key, str]) -> dict[Key, str]:
    """Returns options of a choice, or other texts by a key, in the page's language."""
    return {key: tr(text) for key, text in options.items()}


def number(value: float, spec: str = "") -> str:
    """Returns a number in the format `spec`, with the signs of the page's language."""
    return current().number(value, spec)


def day(date: datetime.date) -> str:
    return date.strftime(current().day)


def problem(code: str, detail: str) -> str:
    """Returns the message `detail` of the API in the page's language, as far as it has a sentence for the code."""
    return current().problem(code, detail)


def current() -> Catalogue:
    """Returns the language of the current page. English outside of a page."""
    return of_request(ui.context.client.request) if Slot.get_stack() else _PLAIN.get() or Catalogue()


@contextmanager
def plain_page(request: Request) -> Iterator[Catalogue]:
    """Makes the language that a browser prefers the current one, for a page without NiceGUI."""
    catalogue = of_request(request)
    token = _PLAIN.set(catalogue)
    try:
        yield catalogue
    finally:
        _PLAIN.reset(token)


def of_request(request: Request) -> Catalogue:
    """Returns the language that a browser prefers among those of the pages."""
    return catalogues().get(_preferred(request.headers.get("accept-language", "")), Catalogue())


@cache
def catalogues() -> dict[str, Catalogue]:
    """Returns all languages but English, by their codes such as `de`."""
    return {path.stem: Catalogue(**tomllib.loads(path.read_text("utf-8"))) for path in _FOLDER.glob("*.toml")}


@lru_cache(_HEADERS)
def _preferred(header: str) -> str:
    """Returns the code of the language that an Accept-Language header (RFC 9110) prefers; English if it has none of the
    pages' languages."""
    weights: dict[str, float] = {}
    for part in header.split(","):
        tag, _, weight = part.partition(";q=")
        code = tag.strip().partition("-")[0].lower()
        try:
            weights.setdefault(code, float(weight or 1))
        except ValueError:
            continue
    offered = {code: weight for code, weight in weights.items() if weight > 0 and code in {"en", *catalogues()}}
    return max(offered, key=lambda code: offered[code], default="en")
