"""Measures curves of image quality over training: trains up to given steps, and at each generates images and scores
them.

Figure 5 (`highres`) and Figure 6 (`figure6`) of the DiffFit paper (arXiv 2304.06648) share this code. A curve that was
interrupted is measured again from its first step.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.console import Console
from rich.progress import track
from torch import Tensor

from benchmarks.paper.record import Record
from benchmarks.paper.settings import described, parser_of, sampling_of
from benchmarks.report import markdown_table, plot, write_markdown
from core.ml.evaluation.yardsticks import DISTANCES, Judges
from core.ml.model.checkpoint import LoadedBase
from core.ml.tuning.trainer import Trainer

Point = dict[str, Any]
"""Point of a curve: the curve's key, the training step, and the scores at that step."""
Started = tuple[Trainer, Callable[[Mapping[str, Tensor]], Mapping[str, float]]]
"""Trainer, and a function that returns the scores of an adapter, given its tensors."""


@dataclass(frozen=True)
class Line:
    key: Mapping[str, Any]
    """Identity of the curve: "line" is its label; "seed" and "domain" or "classes" tell apart several curves with that
    label."""
    start: Callable[[], Started]

    def points(self, steps: Sequence[int]) -> Iterator[Point]:
        trainer, score = self.start()
        for step in sorted(steps):
            left = range(trainer.steps_done, step)
            what = f"{', '.join(map(str, self.key.values()))}: to step {step}"
            for _ in track(left, what, console=Console(stderr=True)):
                trainer.step()
            yield {**self.key, "step": step, **score(trainer.averaged)}


@dataclass(frozen=True)
class Figure:
    """Figure with several curves, written as JSON, Markdown and PNG."""

    name: str
    title: str
    text: str
    scores: Sequence[str]
    """Names of the scores that are plotted, each on separate axes."""
    panel: Callable[[Point], str]
    """Function that returns the title of the axes to which a point belongs."""

    def run(self, lines: Sequence[Line], identity: Mapping[str, Any], options: argparse.Namespace) -> None:
        record = Record(options.output / f"{self.name}.json", identity, "points", options.command)
        console = Console(stderr=True)
        wanted = [line for line in lines if not record.has(line.key)]
        console.print(f"{len(lines) - len(wanted)} of {len(lines)} lines are measured already.")
        if not wanted:
            self.write(record, options)
        for line in wanted:
            record.add(line.points(options.at))
            self.write(record, options)
        console.print(f"{record.path}, {record.path.with_suffix('.md')}, {record.path.with_suffix('.png')}")

    def write(self, record: Record, options: argparse.Namespace) -> None:
        header, points, path = record.write(), record.rows, record.path
        text = (
            f"Steps of {options.batch_size} images. At each point {options.pictures} pictures, of "
            f"{described(sampling_of(options))}, by the moving average."
        )
        if len({point["seed"] for point in points}) > 1:
            text += " Means over the seeds, ± their standard deviation."
        parts = [f"{self.text} {text}", f"![{self.title}]({self.name}.png)", *self._tables(points)]
        write_markdown(path.with_suffix(".md"), self.title, header, parts)
        self._plot(path.with_suffix(".png"), points)

    def _tables(self, points: Sequence[Point]) -> Iterator[str]:
        for panel, score in self._axes(points):
            here = [point for point in points if self.panel(point) == panel]
            steps = sorted({point["step"] for point in here})
            rows = [
                (line, *(_said(_values(here, line, step, score)) for step in steps))
                for line in dict.fromkeys(point["line"] for point in here)
            ]
            yield f"{panel}: {score} after so many steps\n\n{markdown_table(('', *map(str, steps)), rows)}"

    def _plot(self, path: Path, points: Sequence[Point]) -> None:
        places = list(self._axes(points))
        with plot(path, len(places)) as columns:
            for axes, (panel, score) in zip(columns, places, strict=True):
                here = [point for point in points if self.panel(point) == panel]
                for line in dict.fromkeys(point["line"] for point in here):
                    steps = sorted({point["step"] for point in here if point["line"] == line})
                    values = [_values(here, line, step, score) for step in steps]
                    spreads = [stdev(spread) for spread in values if len(spread) > 1]
                    bars = {"yerr": spreads, "capsize": 2} if len(spreads) == len(values) else {}
                    axes.errorbar(steps, list(map(mean, values)), **bars, marker="o", label=line)
                axes.set(title=panel, xlabel="steps", ylabel=score)
                axes.legend()

    def _axes(self, points: Sequence[Point]) -> list[tuple[str, str]]:
        every = dict.fromkeys((*self.scores, *DISTANCES))
        scores = [score for score in every if any(score in point for point in points)]
        return [(panel, score) for panel in dict.fromkeys(map(self.panel, points)) for score in scores]


def options_of(name: str, description: str | None) -> argparse.ArgumentParser:
    """Returns a parser with the options that all figures share."""
    parser = parser_of(name, description, seeds=1, pictures=96)
    parser.add_argument("--at", type=int, nargs="+", default=[0, 25, 50, 100, 200, 400], help="steps to draw at")
    return parser


def identity_of(base: LoadedBase, judges: Judges, options: argparse.Namespace) -> dict[str, Any]:
    """Returns the digests and settings that identify a figure. Points with different identities are not comparable."""
    budget = {name: getattr(options, name) for name in ("at", "batch_size", "pictures")}
    budget["sampling"] = sampling_of(options).to_json()
    return {"base": base.description.digest, **judges.digests, "budget": budget}


def _values(points: Sequence[Point], line: str, step: int, score: str) -> list[float]:
    """Returns the values of one score of a curve at one training step, one value per seed."""
    return [point[score] for point in points if point["line"] == line and point["step"] == step]


def _said(values: Sequence[float]) -> str:
    return f"{mean(values):#.4g}" + (f" ± {stdev(values):#.2g}" if len(values) > 1 else "")
