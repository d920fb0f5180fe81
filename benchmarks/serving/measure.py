"""One row of the table, and how its two sides are timed."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

Verdict = Literal["pass", "below", "measured", "not measured"]
Figure = TypeVar("Figure")
Samples = dict[str, list[float]]
"""What each side gave, repetition by repetition."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A figure with its limit, and the samples that it comes from."""

    name: str
    subject: str
    """The model and device it was measured on."""
    value: float | None
    """None when it was not measured."""
    limit: float | None = None
    best: Literal["highest", "lowest"] = "highest"
    unit: Literal["x", "ms", "%", "of all", "difference", "rows/s"] = "x"
    samples: Samples = field(default_factory=dict)
    note: str = ""

    @property
    def verdict(self) -> Verdict:
        if self.value is None:
            return "not measured"
        if self.limit is None:
            return "measured"
        kept = self.value >= self.limit if self.best == "highest" else self.value <= self.limit
        return "pass" if kept else "below"


@dataclass(frozen=True)
class Repetitions:
    """How often each side is measured, after one time that does not count."""

    forward: int = 15
    engine: int = 5
    mixes: int = 200

    @property
    def quick(self) -> bool:
        return self != Repetitions()


QUICK = Repetitions(forward=3, engine=2, mixes=10)


def in_turns(sides: Mapping[str, Callable[[], Figure]], repetitions: int) -> dict[str, list[Figure]]:
    """Runs the sides A B A B ..., so that whatever else the machine does meets all of them alike. The first time of
    each warms up and does not count."""
    samples: dict[str, list[Figure]] = {name: [] for name in sides}
    for repetition in range(repetitions + 1):
        for name, side in sides.items():
            figure = side()
            if repetition:
                samples[name].append(figure)
    return samples


def median_ratio(samples: Samples, above: str, below: str) -> float:
    return statistics.median(samples[above]) / statistics.median(samples[below])


def seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed."""
    return sorted(values)[math.ceil(share * len(values)) - 1]
