"""Tables, records and progress bars for the terminal."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, TypeVar

from rich import box
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from difffit.cli.base import State

Row = TypeVar("Row")

DAY_COLUMNS: dict[str, Callable[[Any], Any]] = {
    "day": lambda day: day.day,
    "images": lambda day: day.images,
    "model evaluations": lambda day: day.model_evaluations,
    "training seconds": lambda day: day.training_seconds,
}
"""Columns of a table of daily usage."""


def table(rows: Iterable[Row], columns: Mapping[str, Callable[[Row], Any]]) -> Table:
    """Returns a table with one line per row. `columns` maps each column's title to the function that reads its value
    from a row. Ids are never truncated."""
    view = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        view.add_column(name, no_wrap=name == "id", overflow="fold")
    for row in rows:
        view.add_row(*(_text(read(row)) for read in columns.values()))
    return view


def record(value: Any, *names: str, **more: Any) -> Table:
    """Returns a table with one line per field: the attributes `names` of `value`, then the values in `more`. A seed has
    no separators, so that it can be copied into `--seed`."""
    view = Table(box=None, show_header=False, pad_edge=False)
    view.add_column(style="dim")
    view.add_column(overflow="fold")
    for name, field in [*((name, getattr(value, name)) for name in names), *more.items()]:
        view.add_row(name.replace("_", " "), Text(str(field)) if name == "seed" else _text(field))
    return view


def size(count: float) -> str:
    """Formats a number of bytes with a binary unit, such as `1.5 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"


def show_deleted(state: State, id: str, receipt: str | None) -> None:
    """Shows that the object with this id was deleted, and the id of the deletion receipt, if it is available."""
    hint = f": see {receipt}" if receipt else ""
    state.show({"deleted": id, "receipt": receipt}, f"Deleted {id}. Its files are being removed{hint}.")


def short(digest: str | None) -> str:
    return (digest or "")[:12]


def steps_bar(state: State, title: str) -> Progress:
    """Returns a progress bar that counts steps. Each task added to it needs the field `note`, which is shown next to
    the count."""
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
    return Progress(*columns, TimeRemainingColumn(), console=state.err, disable=_hidden(state))


def bytes_bar(state: State, title: str) -> Progress:
    columns = (TextColumn(title), BarColumn(), DownloadColumn(binary_units=True), TimeRemainingColumn())
    return Progress(*columns, console=state.err, disable=_hidden(state))


def _hidden(state: State) -> bool:
    return state.json or not state.err.is_terminal


def _text(value: Any) -> Text:
    """Formats a value for people: local times, yes or no, numbers with separators, `-` for None."""
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
        return Text(", ".join(str(item) for item in value) or "-")
    return Text(str(value))
