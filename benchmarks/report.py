"""Writes the results of all benchmarks: hardware facts, measures with limits, tables for terminal and Markdown, JSON
and plots.

rich and matplotlib are imported only inside the functions that use them, since `benchmarks.gpu` runs where they are not
installed.
"""

import json
import os
import platform
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch

FOLDER = Path("docs/results")
WIDTH = 160
"""Width of printed tables in characters, if the output is not a terminal."""
Samples = dict[str, list[float]]
"""Measured values of each side of a comparison, by the side's name, one value per repetition."""
_FORMS = {"x": "{:.3f}", "ms": "{:.2f} ms", "of all": "{:.2%}", "difference": "{:.1e}", "distance": "{:.2f}",
          "rows/s": "{:.1f}", "": "{:g}"}  # fmt: skip
_STYLES = {"pass": "green", "below": "bold red", "measured": "", "not measured": "dim"}


@dataclass(frozen=True, kw_only=True)
class Measure:
    """Measured figure, with its limit and the samples that it was computed from."""

    name: str
    subject: str = ""
    """Model and device that the figure was measured on; empty if the benchmark has only one."""
    value: float | None
    """None if the figure was not measured."""
    limit: float | None = None
    best: Literal["highest", "lowest"] = "highest"
    unit: Literal["x", "ms", "s", "%", "of all", "difference", "distance", "rows/s", "MB", "of 255", ""] = "x"
    samples: Samples = field(default_factory=dict)
    note: str = ""

    @property
    def verdict(self) -> Literal["pass", "below", "measured", "not measured"]:
        if self.value is None:
            return "not measured"
        if self.limit is None:
            return "measured"
        kept = self.value >= self.limit if self.best == "highest" else self.value <= self.limit
        return "pass" if kept else "below"

    @property
    def limit_text(self) -> str:
        if self.limit is None:
            return ""
        return f"at {'least' if self.best == 'highest' else 'most'} {self._text(self.limit)}"

    @property
    def value_text(self) -> str:
        return "" if self.value is None else self._text(self.value)

    def to_json(self) -> dict[str, Any]:
        medians = {side: statistics.median(values) for side, values in self.samples.items()}
        return {**asdict(self), "verdict": self.verdict, "medians": medians}

    def _text(self, value: float) -> str:
        return _FORMS.get(self.unit, f"{{:.1f}} {self.unit}").format(value)


@dataclass(frozen=True)
class Table:
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str | None = None
    styles: Sequence[str] = ()
    """rich style of each row in the terminal."""

    @classmethod
    def of_measures(cls, measures: Sequence[Measure], title: str | None = None) -> "Table":
        """Builds a table with one row per measure, and leaves out columns that are empty in all rows."""
        head = ("measure", "on", "found", "limit", "verdict", "note")
        cells = [(row.name, row.subject, row.value_text, row.limit_text, row.verdict, row.note) for row in measures]
        used = [column for column in zip(head, *cells, strict=True) if any(column[1:])]
        head, *rows = zip(*used, strict=True)
        return cls(head, rows, title, [_STYLES[row.verdict] for row in measures])

    def __str__(self) -> str:
        return markdown_table(self.head, self.rows)


Part = str | Table
"""Paragraph or table of a report."""


def show(*parts: Part) -> None:
    """Prints paragraphs and tables to the terminal."""
    from rich.console import Console
    from rich.table import Table as Grid

    terminal = Console()
    console = terminal if terminal.is_terminal else Console(width=WIDTH)
    for part in parts:
        if isinstance(part, str):
            console.print(part, highlight=False, markup=False)
            continue
        grid = Grid(*part.head, title=part.title)
        for index, row in enumerate(part.rows):
            grid.add_row(*row, style=part.styles[index] if part.styles else None)
        console.print(grid)


def facts(command: str, seeds: str, **more: Any) -> dict[str, Any]:
    """Returns the metadata that every result file contains: command, date, seeds, `more` and hardware."""
    date = datetime.now(UTC).date().isoformat()
    return {"command": command, "date": date, "seeds": seeds, **more, "hardware": hardware()}


def hardware() -> dict[str, Any]:
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        **{package: _version(package) for package in ("torch", "diffusers", "peft")},
    }


def hardware_line(machine: Mapping[str, Any]) -> str:
    return f"{machine['cpu']}, cores: {machine['cores']}, GPU: {machine['gpu']}"


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def write_markdown(path: Path, title: str, header: Mapping[str, Any], parts: Iterable[Part]) -> None:
    """Writes a result page in Markdown. `header` is the metadata that `facts` returned."""
    made = f"`{header['command']}`, {header['date']}, {hardware_line(header['hardware'])}. Seeds: {header['seeds']}."
    path.write_text("\n\n".join([f"# {title}", *map(str, parts), made]) + "\n")


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a Markdown table with the first column aligned left and the others right."""
    marks = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, marks, *rows])


def mean_text(values: Sequence[float]) -> str:
    """Returns the mean ± the standard deviation, without the deviation for a single value; "not yet" for none."""
    if not values:
        return "not yet"
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


@contextmanager
def plot(path: Path, columns: int = 1, *, width: float = 5, height: float = 4, **options: Any) -> Iterator[Any]:
    """Yields `columns` axes side by side, `width` and `height` inches each, and saves the figure as PNG to `path`
    afterwards."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    size = (width * columns, height)
    figure, axes = plt.subplots(1, columns, figsize=size, layout="constrained", squeeze=False, **options)
    yield axes[0]
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
