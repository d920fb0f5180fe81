"""Times the sides of a comparison in turns."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from benchmarks.report import Samples

Figure = TypeVar("Figure")


@dataclass(frozen=True)
class Repetitions:
    """Number of repetitions of each side of a comparison, after one run that does not count."""

    forward: int = 15
    engine: int = 5
    mixes: int = 200

    @property
    def quick(self) -> bool:
        return self != Repetitions()


QUICK = Repetitions(forward=3, engine=2, mixes=10)


def in_turns(sides: Mapping[str, Callable[[], Figure]], repetitions: int) -> dict[str, list[Figure]]:
    """Runs the sides A B A B ..., so that other load on the machine affects all of them alike, and returns each side's
    samples. The first run of each is a warm-up and does not count."""
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
    """Returns the `share` quantile: the smallest value such that at least this fraction of all values is not larger."""
    return sorted(values)[math.ceil(share * len(values)) - 1]
