"""Tables, records and progress bars."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, TypeVar

from rich import box
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from difffit.cli.base import State

Row = TypeVar("Row")


def table(rows: Iterable[Row], columns: Mapping[str, Callable[[Row], Any]]) -> Table:
    """A line a row; ids are never cut."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        made.add_column(name, no_wrap=name == "id", overflow="fold")
    for row in rows:
        made.add_row(*(_text(read(row)) for read in columns.values()))
    return made


def record(value: Any, *names: str, **more: Any) -> Table:
    """A line a field."""
    made = Table(box=None, show_header=False, pad_edge=False)
    made.add_column(style="dim")
    made.add_column(overflow="fold")
    for name, one in [*((name, getattr(value, name)) for name in names), *more.items()]:
        made.add_row(name.replace("_", " "), _text(one))
    return made


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"


def short(digest: str | None) -> str:
    return (digest or "")[:12]


def steps_bar(state: State, title: str) -> Progress:
    """For tasks with a field `note`."""
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
    return Progress(*columns, TimeRemainingColumn(), console=state.err, disable=_hidden(state))


def bytes_bar(state: State, title: str) -> Progress:
    columns = (TextColumn(title), BarColumn(), DownloadColumn(binary_units=True), TimeRemainingColumn())
    return Progress(*columns, console=state.err, disable=_hidden(state))


def _hidden(state: State) -> bool:
    return state.json or not state.err.is_terminal


def _text(value: Any) -> Text:
    """A value as people read it."""
    if value is None:
        return Text("-", "dim")
    if isinstance(value, datetime):
        return Text(value.astimezone().strftime("%Y-%m-%d %H:%M"))
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    if isinstance(value, float):
        return Text(f"{value:.4g}")
    if isinstance(value, int):
        return Text(f"{value:,}")
    if isinstance(value, (list, tuple)):
        return Text(", ".join(str(one) for one in value) or "-")
    return Text(str(value))
