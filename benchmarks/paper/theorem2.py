"""Tests Theorem 2 of the DiffFit paper by simulation: `python -m benchmarks.paper theorem2`.

Does the error of the recovered factors stay below the theorem's bound? It is measured for several D, m, eta and three
activations with orthogonal rows of W, for which the columns of A are independent, as the paper's Lemma 5 needs; and
with nearly parallel rows, for which they are not. `benchmarks.paper.recovery` defines the symbols.
"""

import argparse
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from benchmarks import report
from benchmarks.paper.recovery import Activation, Recovery, Setting, recover

ETAS = (0.001, 0.01, 0.1)
NONLINEAR: tuple[Activation, ...] = ("relu", "tanh", "sigmoid")
SPREADS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003)
TITLE = "Theorem 2: least squares against its bound"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Summary of all runs of one setting with one eta."""

    setting: Setting
    eta: float
    runs: int
    holds: int
    """Number of runs whose error is below the theorem's bound."""
    holds_corrected: int
    """Number of runs whose error is below the bound with the least eigenvalue of A^T A / m in place of V_min / 2."""
    lemma_7: int
    """Number of runs in which the least eigenvalue of A^T A / m is above V_min / 2, as Lemma 7 claims."""
    error: float
    """Median of the relative error |g - g*| / |g*|."""
    bound: float
    """Median of the theorem's bound on the relative error."""
    ratio: float
    """Median over the runs of error / bound."""
    largest_ratio: float

    def to_json(self) -> dict[str, Any]:
        values = asdict(self)
        setting: dict[str, Any] = values.pop("setting")
        return setting | {"samples": self.setting.samples} | values


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    settings = [*orthogonal_settings(options.dimensions), *parallel_settings(options.dimensions)]
    steps = track(list(enumerate(settings)), "Recovering", console=Console(stderr=True), transient=True)
    cells = [cell for index, setting in steps for cell in measure(setting, index, options.runs, options.seed)]
    orthogonal = [cell for cell in cells if cell.setting.spread is None]
    parallel = [cell for cell in cells if cell.setting.spread is not None]
    command = f"python -m benchmarks.paper theorem2 --runs {options.runs} --seed {options.seed}"
    seeds = f"run k of setting s draws from numpy's default_rng(({options.seed}, s, k))"
    header = report.facts(command, seeds, runs=options.runs)
    rows = {name: [c.to_json() for c in part] for name, part in (("orthogonal", orthogonal), ("parallel", parallel))}
    report.write_json(options.output / "theorem2.json", header | {"verdict": verdict(orthogonal, parallel)} | rows)
    _draw(options.output / "theorem2.png", orthogonal, parallel)
    report.write_markdown(options.output / "theorem2.md", TITLE, header, _text(orthogonal, parallel))
    for sentence in verdict(orthogonal, parallel):
        Console().print(sentence, highlight=False)
    Console().print(f"Written: theorem2.json, theorem2.md and theorem2.png in {options.output}")


def orthogonal_settings(dimensions: Sequence[int]) -> list[Setting]:
    """Returns settings with orthogonal rows of W and m from D^2 log D to four times as much; the largest D has only the
    least m, to save time."""
    return [
        Setting(activation=activation, dimension=d, multiple=multiple)
        for activation in NONLINEAR
        for d in dimensions
        for multiple in ((1.0,) if d == max(dimensions) else (1.0, 2.0, 4.0))
    ]


def parallel_settings(dimensions: Sequence[int]) -> list[Setting]:
    """Returns settings with nearly parallel rows of W and m = D^2 log D, without the largest D. They include the linear
    activation, to show that the counterexample depends only on W."""
    activations: tuple[Activation, ...] = ("linear", *NONLINEAR)
    return [
        Setting(activation=activation, dimension=d, spread=spread)
        for activation in activations
        for d in sorted(dimensions)[:-1]
        for spread in SPREADS
    ]


def measure(setting: Setting, index: int, runs: int, seed: int) -> Iterator[Cell]:
    """Runs a setting `runs` times and yields one cell for each eta. Every run has its own W, b, factors, data and
    noise."""
    results_of_runs = [recover(setting, ETAS, np.random.default_rng((seed, index, run))) for run in range(runs)]
    for eta, recoveries in zip(ETAS, zip(*results_of_runs, strict=True), strict=True):
        yield _cell(setting, eta, recoveries)


def verdict(orthogonal: Sequence[Cell], parallel: Sequence[Cell]) -> list[str]:
    """Returns the findings as sentences: in how many runs the bound held."""
    held, all_runs = sum(cell.holds for cell in orthogonal), sum(cell.runs for cell in orthogonal)
    failed = sum(cell.runs - cell.holds for cell in parallel)
    corrected = sum(cell.holds_corrected for cell in parallel)
    tightest = max(cell.largest_ratio for cell in orthogonal)
    runs = sum(cell.runs for cell in parallel)
    return [
        (f"Orthogonal rows: the bound held in {held:,} of {all_runs:,} runs; the largest error was {tightest:.2f} "
         "of it."),
        (f"Nearly parallel rows: the bound failed in {failed:,} of {runs:,} runs. With the least eigenvalue of "
         f"A^T A / m in the place of V_min / 2 it held in {corrected:,}."),
        *_first_failures(parallel),
    ]  # fmt: skip


def _first_failures(parallel: Sequence[Cell]) -> Iterator[str]:
    """Yields, for each activation, a sentence with the widest spread at which the bound failed in some run."""
    for activation in dict.fromkeys(cell.setting.activation for cell in parallel):
        cells = [cell for cell in parallel if cell.setting.activation == activation]
        failing = [cell for cell in cells if cell.holds < cell.runs]
        if not failing:
            yield f"{activation}: no failure down to a spread of {min(SPREADS):g}."
            continue
        worst = max(cells, key=lambda cell: cell.ratio)
        first, spread = max(_spread(cell) for cell in failing), _spread(worst)
        yield (
            f"{activation}: first failures at a spread of {first:g}; at worst, D = {worst.setting.dimension} and a "
            f"spread of {spread:g}, the median error is {worst.ratio:.2g} times the bound."
        )


def _cell(setting: Setting, eta: float, runs: Sequence[Recovery]) -> Cell:
    ratios = [run.error / run.bound for run in runs]
    return Cell(
        setting=setting,
        eta=eta,
        runs=len(runs),
        holds=sum(run.holds for run in runs),
        holds_corrected=sum(run.error < run.corrected_bound for run in runs),
        lemma_7=sum(run.eigenvalue_ratio > 0.5 for run in runs),
        error=statistics.median(run.error for run in runs),
        bound=statistics.median(run.bound for run in runs),
        ratio=statistics.median(ratios),
        largest_ratio=max(ratios),
    )


def _text(orthogonal: Sequence[Cell], parallel: Sequence[Cell]) -> list[str]:
    return [
        ("Section 9 of DiffFit (arXiv 2304.06648) says that least squares recovers the factors g* with a relative "
         "error below 4 sqrt(2) eta / sqrt(V_min) when m is of the order of D^2 log D. Its Lemma 5 takes the "
         "columns of A = f(E W^T + b) for independent without saying so: they are when W's rows are orthogonal. "
         "Rows that are nearly parallel are the counterexample: the least eigenvalue of A^T A / m falls far below "
         "V_min / 2, the least that Lemma 7 allows."),
        "\n".join(f"- {sentence}" for sentence in verdict(orthogonal, parallel)),
        "![error against bound](theorem2.png)",
        ("Each run has its own W, b, g*, E and noise. Noise is normal with standard deviation s, whose "
         "sub-Gaussian norm by the paper's definition is eta = sqrt(2/pi) s. Every cell is in theorem2.json."),
        "## Orthogonal rows",
        _orthogonal_table(orthogonal),
        "## Nearly parallel rows",
        ("Each row of W is one unit vector that all share and `spread` times one of its own, scaled to length 1. "
         "m = D^2 log D. Runs of all three eta in which the bound held, by spread:"),
        _parallel_table(parallel, lambda cells: f"{_share(cells, 'holds')}"),
        "Median error in units of the bound, at eta = 0.01:",
        _parallel_table(parallel, lambda cells: f"{cells[1].ratio:.2g}"),
    ]  # fmt: skip


def _orthogonal_table(cells: Sequence[Cell]) -> str:
    head = ["", "D", "m", "bound held", "Lemma 7 held", *(f"largest error / bound, eta = {eta:g}" for eta in ETAS)]
    rows = []
    for setting, group in _by_setting(cells).items():
        largest = (f"{cell.largest_ratio:.2g}" for cell in group)
        held = (_share(group, "holds"), _share(group, "lemma_7"))
        rows.append([setting.activation, str(setting.dimension), f"{setting.samples:,}", *held, *largest])
    return report.markdown_table(head, rows)


def _parallel_table(cells: Sequence[Cell], value: Callable[[Sequence[Cell]], str]) -> str:
    """Returns a Markdown table with a row for each activation and D, and a column for each spread. `value` formats the
    cells of a setting, of which there is one per eta."""
    rows: dict[tuple[str, int], list[str]] = {}
    for setting, group in _by_setting(cells).items():
        rows.setdefault((setting.activation, setting.dimension), []).append(value(group))
    head = ["", "D", *(f"{spread:g}" for spread in SPREADS)]
    return report.markdown_table(head, [[name, str(d), *values] for (name, d), values in rows.items()])


def _by_setting(cells: Sequence[Cell]) -> dict[Setting, list[Cell]]:
    groups: dict[Setting, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.setting, []).append(cell)
    return groups


def _share(cells: Sequence[Cell], count: str) -> str:
    return f"{sum(getattr(cell, count) for cell in cells)} of {sum(cell.runs for cell in cells)}"


def _spread(cell: Cell) -> float:
    return cell.setting.spread or 0.0


def _draw(path: Path, orthogonal: Sequence[Cell], parallel: Sequence[Cell]) -> None:
    """Plots the largest ratio of error to bound over all runs: against D for orthogonal rows, against the spread for
    nearly parallel rows."""
    with report.plot(path, 2, width=5.5, height=4.5, sharey=True) as (left, right):
        eta = ETAS[1]
        _lines(left, [cell for cell in orthogonal if cell.eta == eta], lambda cell: cell.setting.dimension, "multiple")
        _lines(right, [cell for cell in parallel if cell.eta == eta], _spread, "dimension")
        for axes in (left, right):
            axes.axhline(1, color="black", linewidth=1)
            axes.set(xscale="log", yscale="log")
            axes.legend(fontsize="x-small", ncols=2, handlelength=3, columnspacing=1)
        places = sorted({cell.setting.dimension for cell in orthogonal})
        left.set_xticks(places, [str(place) for place in places])
        left.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
        left.set(title="orthogonal rows of W", xlabel="D")
        left.set_ylabel(f"largest error / bound of {orthogonal[0].runs} runs, eta = {eta:g}")
        right.set(title="nearly parallel rows of W", xlabel="spread of the rows")


def _lines(axes: Any, cells: Sequence[Cell], place: Callable[[Cell], float], other: str) -> None:
    """Plots a line for each activation (colour) and each value of the setting's field `other` (line style)."""
    values = sorted({getattr(cell.setting, other) for cell in cells})
    styles = dict(zip(values, ("-", "--", ":", "-."), strict=False))
    colours = {"linear": "tab:gray", "relu": "tab:blue", "tanh": "tab:orange", "sigmoid": "tab:green"}
    for activation in dict.fromkeys(cell.setting.activation for cell in cells):
        for value in values:
            chosen = [c for c in cells if c.setting.activation == activation and getattr(c.setting, other) == value]
            points = sorted((place(cell), cell.largest_ratio) for cell in chosen)
            label = f"{activation}, {f'D = {value}' if other == 'dimension' else f'm = {value:g} D² log D'}"
            style = {"linestyle": styles[value], "color": colours[activation], "marker": ".", "label": label}
            axes.plot(*zip(*points, strict=True), **style)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper theorem2",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--runs", type=int, default=100, help="of each setting")
    parser.add_argument("--dimensions", type=int, nargs="+", default=[4, 8, 16, 32, 64], help="D")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=report.FOLDER, help="folder of the three files")
    return parser.parse_args(arguments)
