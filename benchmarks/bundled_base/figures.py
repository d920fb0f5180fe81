"""Measured figures as a table and as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

Unit = Literal["MB", "s", "%", "distance", "of 255"]
Verdict = Literal["pass", "below", "measured"]
_COLOURS: dict[Verdict, str] = {"pass": "green", "below": "bold red", "measured": ""}


@dataclass(frozen=True, kw_only=True)
class Figure:
    name: str
    value: float
    unit: Unit
    limit: float | None = None
    best: Literal["highest", "lowest"] = "lowest"
    note: str = ""

    @property
    def verdict(self) -> Verdict:
        if self.limit is None:
            return "measured"
        kept = self.value >= self.limit if self.best == "highest" else self.value <= self.limit
        return "pass" if kept else "below"


def show(figures: Sequence[Figure], title: str) -> None:
    table = Table("figure", "found", "limit", "verdict", "note", title=title)
    for figure in figures:
        limit = ""
        if figure.limit is not None:
            limit = f"{'at least' if figure.best == 'highest' else 'at most'} {_value(figure, figure.limit)}"
        style = _COLOURS[figure.verdict]
        table.add_row(figure.name, _value(figure, figure.value), limit, figure.verdict, figure.note, style=style)
    Console().print(table)


def write_json(path: Path, figures: Sequence[Figure], facts: dict[str, Any]) -> None:
    rows = [asdict(figure) | {"verdict": figure.verdict} for figure in figures]
    path.write_text(json.dumps({**facts, "figures": rows}, indent=2) + "\n")


def _value(figure: Figure, value: float) -> str:
    return f"{value:.2f}" if figure.unit == "distance" else f"{value:.1f} {figure.unit}"
