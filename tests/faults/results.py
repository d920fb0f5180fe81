"""The table of what was tried, for a terminal, as JSON and as Markdown; it can be made row by row."""

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

What `make faults` breaks on real processes, PostgreSQL, Redis and an S3 server, and what held. *Lost* must be 0, *held*
all that was *tried*; *late* counts what held and took longer than it must, which is a matter of the machine too.
`python -m tests.faults --only NAME --seed SEED --json docs/results/faults.json` makes a row anew.
"""
COLUMNS = ("fault", "must hold", "tried", "held", "lost", "late", "seconds", "")


def entry(outcome: Outcome, seed: int) -> dict[str, Any]:
    """A row of the file: the outcome, with what it came from."""
    memory = psutil.virtual_memory().total / 2**30
    machine = f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB"
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {**asdict(outcome), "seed": seed, "date": date, "machine": machine}


def keep(path: Path, name: str, row: dict[str, Any], order: Sequence[str]) -> None:
    """Puts the row into the JSON file in the place of an older one of its name, and writes the Markdown file beside."""
    rows = (json.loads(path.read_text()) if path.exists() else {}) | {name: row}
    rows = {name: rows[name] for name in order if name in rows}
    path.write_text(json.dumps(rows, indent=2) + "\n")
    path.with_suffix(".md").write_text(_markdown(rows))


def table(outcomes: Sequence[Outcome]) -> Table:
    found = Table(*COLUMNS, title="Faults")
    for outcome in outcomes:
        found.add_row(*_cells(asdict(outcome)))
    return found


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
