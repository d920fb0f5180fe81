"""Table of all outcomes for a terminal, as JSON and as Markdown; rows can be added one at a time."""

import datetime
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
from rich.table import Table

from tests.faults.stack import Outcome

_HEAD = """# Faults

`make faults` causes these faults on real processes, PostgreSQL, Redis and an S3 server, and checks the guarantees.
*Lost* must be 0 and *held* must equal *tried*. *Late* counts attempts that held but took longer than allowed, which
also depends on the machine. `python -m tests.faults --only NAME --seed SEED --json docs/results/faults.json` repeats
one row.
"""
COLUMNS = ("fault", "must hold", "tried", "held", "lost", "late", "seconds", "")


def entry(outcome: Outcome, seed: int) -> dict[str, Any]:
    """Returns a row of the file: the outcome with its seed, date and machine."""
    memory = psutil.virtual_memory().total / 2**30
    machine = f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB"
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {**asdict(outcome), "seed": seed, "date": date, "machine": machine}


def keep(path: Path, name: str, row: dict[str, Any], order: Sequence[str]) -> None:
    """Adds the row to the JSON file or replaces the row of that name, and writes the Markdown file next to it."""
    rows = (json.loads(path.read_text()) if path.exists() else {}) | {name: row}
    rows = {name: rows[name] for name in order if name in rows}
    path.write_text(json.dumps(rows, indent=2) + "\n")
    path.with_suffix(".md").write_text(_markdown(rows))


def table(outcomes: Sequence[Outcome]) -> Table:
    rich_table = Table(*COLUMNS, title="Faults")
    for outcome in outcomes:
        rich_table.add_row(*_cells(asdict(outcome)))
    return rich_table


def _markdown(rows: dict[str, dict[str, Any]]) -> str:
    lines = [
        _HEAD,
        f"| name | {' | '.join(COLUMNS)} | seed | date |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | --- | ---: | --- |",
    ]
    for name, row in rows.items():
        cells = (cell.replace("|", "\\|") for cell in _cells(row))
        lines.append(f"| `{name}` | {' | '.join(cells)} | {row['seed']} | {row['date']} |")
    machines = sorted({row["machine"] for row in rows.values()})
    return "\n".join([*lines, "", f"Machine: {'; '.join(machines)}, which other work shared.", ""])


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    counts = (str(row[name]) for name in ("tried", "held", "lost", "late"))
    return (row["fault"], row["must_hold"], *counts, f"{row['seconds']:.0f}", row["note"])


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
