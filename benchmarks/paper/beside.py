"""Puts a measured Table 1 next to the DiffFit paper's, column by column.

The two have other data sets and scores. What compares is relative to full fine-tuning.
"""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence

from benchmarks.paper.systems import DATASETS, System
from benchmarks.report import markdown_table

Scores = Mapping[str, Sequence[float]]
"""Mean score of each system, by its name, on each data set."""
TITLE = "## Beside the paper's Table 1"
DIFFERENCES = (
    "Scores are relative to full fine-tuning's, as geometric means over the data sets. What differs: the paper's base "
    "is DiT-XL/2, which knew none of the classes by name; the default base here has about a hundredth of its "
    "parameters, and knows the classes. The paper trains 24,000 steps of 256 images, of data sets of thousands."
)


def beside_the_paper(
    systems: Sequence[System], measured: Mapping[str, Scores], times: Mapping[str, str], trains: Mapping[str, int]
) -> Iterator[str]:
    """Yields the title, the paragraphs and the tables. `systems` are those of Table 1, full fine-tuning first.
    `measured` has their scores here, by the name of the score; `times` and `trains` their training time relative to
    full fine-tuning and their number of trained parameters. Yields nothing unless every system has all scores."""
    names = [system.name for system in systems]
    counts = {len(scores.get(name, ())) for scores in measured.values() for name in names}
    if len(counts) != 1 or 0 in counts:
        return
    sides = {**measured, "the paper's FID": {system.name: system.fids for system in systems}}
    relative = {score: _relative(side, names) for score, side in sides.items()}
    head = [
        *(f"{score} / full's" for score in sides),
        *(f"rank by {score}" for score in sides),
        *(f"{score} below full's" for score in sides),
        *(f"{cost}, {where}" for cost in ("trains", "time") for where in ("here", "paper")),
    ]
    rows = [
        (
            system.name,
            *(f"{_mean(ratios[system.name]):.2f}" for ratios in relative.values()),
            *(str(_rank(ratios, system.name)) for ratios in relative.values()),
            *(_below(ratios[system.name]) for ratios in relative.values()),
            f"{100 * trains[system.name] / trains[names[0]]:.3g} %",
            f"{system.percent} %",
            times[system.name],
            f"{system.time:.2f}x",
        )
        for system in systems
    ]
    yield f"{TITLE}\n\n{DIFFERENCES}\n\n{markdown_table(('system', *head), rows)}"
    fids = [(system.name, *(f"{fid:.2f}" for fid in system.fids), f"{system.fid:.2f}") for system in systems]
    yield f"The paper's FIDs:\n\n{markdown_table(('system', *DATASETS, 'mean'), fids)}"


def _relative(scores: Scores, names: Sequence[str]) -> dict[str, list[float]]:
    """Returns each system's scores divided by those of the first system."""
    return {name: [own / full for own, full in zip(scores[name], scores[names[0]], strict=True)] for name in names}


def _mean(ratios: Sequence[float]) -> float:
    return math.exp(statistics.mean(map(math.log, ratios)))


def _rank(ratios: Mapping[str, Sequence[float]], name: str) -> int:
    return 1 + sum(_mean(others) < _mean(ratios[name]) for others in ratios.values())


def _below(ratios: Sequence[float]) -> str:
    return f"{sum(ratio < 1 for ratio in ratios)} of {len(ratios)}"
