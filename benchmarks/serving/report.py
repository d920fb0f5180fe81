"""Measures as a table and as JSON, and the throughput's curve as an image."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table

from benchmarks.serving.measure import Measure, Repetitions

WIDTH = 160
"""Width of the table where there is no terminal."""
_COLOURS = {"pass": "green", "below": "bold red", "measured": "", "not measured": "dim"}


def show(measures: Sequence[Measure], facts: dict[str, Any], repetitions: Repetitions) -> None:
    title = f"{facts['cpu']}, {facts['cores']} cores, {facts['threads']} threads, torch {facts['torch']}"
    table = Table("measure", "on", "found", "limit", "verdict", title=f"{title}, GPU: {facts['gpu']}")
    for measure in measures:
        verdict = f"{measure.verdict}: {measure.note}" if measure.value is None else measure.verdict
        table.add_row(
            measure.name, measure.subject, _figure(measure, measure.value), _limit(measure), verdict,
            style=_COLOURS[measure.verdict],
        )  # fmt: skip
    terminal = Console()
    console = terminal if terminal.is_terminal else Console(width=WIDTH)
    console.print(table)
    for measure in measures:
        if measure.note and measure.value is not None:
            console.print(f"{measure.name}, {measure.subject}: {measure.note}")
    console.print(f"Medians of {repetitions.forward} forwards and {repetitions.engine} runs of the engine, in turns.")
    if repetitions.quick:
        console.print("[bold]Quick: too few repetitions for a verdict.[/bold]")


def write_json(path: Path, measures: Sequence[Measure], facts: dict[str, Any], repetitions: Repetitions) -> None:
    rows = [
        {
            **asdict(measure),
            "verdict": measure.verdict,
            "medians": {side: statistics.median(values) for side, values in measure.samples.items()},
        }
        for measure in measures
    ]
    whole = {"hardware": facts, "quick": repetitions.quick, "repetitions": asdict(repetitions), "measures": rows}
    path.write_text(json.dumps(whole, indent=2) + "\n")


SIZE, MARGIN = (640, 400), 60


def draw_curve(path: Path, points: Sequence[tuple[int, float]], title: str) -> None:
    """Draws model evaluations (forwards of one batch row) per second over rows in flight; both axes begin at 0."""
    image = Image.new("RGB", SIZE, "white")
    draw = ImageDraw.Draw(image)
    most_rows, most_steps = max(rows for rows, _ in points), max(rate for _, rate in points)
    left, bottom, width, height = MARGIN, SIZE[1] - MARGIN, SIZE[0] - 2 * MARGIN, SIZE[1] - 2 * MARGIN
    places = [(left + width * rows / most_rows, bottom - height * rate / most_steps) for rows, rate in points]
    draw.line([(left, bottom - height), (left, bottom), (left + width, bottom)], fill="black")
    draw.line(places, fill="#2563eb", width=2)
    for (x, y), (rows, rate) in zip(places, points, strict=True):
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill="#2563eb")
        draw.text((x, y - 8), f"{rate:.3g}", fill="black", anchor="ms")
        draw.text((x, bottom + 6), str(rows), fill="black", anchor="mt")
    draw.text((SIZE[0] / 2, 10), f"{title}: row-steps a second", fill="black", anchor="mt")
    draw.text((SIZE[0] / 2, SIZE[1] - 24), "rows in flight", fill="black", anchor="mt")
    image.save(path)


def _figure(measure: Measure, value: float | None) -> str:
    if value is None:
        return ""
    forms = {"x": "{:.3f}", "ms": "{:.2f} ms", "%": "{:.1f} %", "of all": "{:.2%}", "difference": "{:.1e}"}
    return forms.get(measure.unit, "{:.1f}").format(value)


def _limit(measure: Measure) -> str:
    if measure.limit is None:
        return ""
    return f"{'at least' if measure.best == 'highest' else 'at most'} {_figure(measure, measure.limit)}"
