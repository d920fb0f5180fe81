"""Counters of the engine's work since its start, which the metrics report."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from core.ml.serving.request import Row


@dataclass
class Counters:
    """Sums since the engine's start. `steps` counts the sampling steps of batches. All seconds are wall-clock time of
    the engine's thread."""

    steps: int = 0
    rows: int = 0
    """Images in each step, summed over the steps. Unconditional rows of guided images do not count."""
    model_evaluations: int = 0
    """Batch rows that passed the model, unconditional rows included, padding excluded."""
    adapters: int = 0
    """Distinct adapters in each step, summed over the steps."""
    images: int = 0
    waits: int = 0
    wait_seconds: float = 0.0
    """Seconds from submission to the first step, summed over `waits` requests."""
    step_seconds: float = 0.0
    training_seconds: float = 0.0
    failed_steps: int = 0

    def stepped(self, rows: Sequence[Row], costs: Sequence[int]) -> None:
        self.steps += 1
        self.rows += len(rows)
        self.model_evaluations += sum(costs)
        self.adapters += len({row.request.adapter for row in rows})

    def waited(self, seconds: float) -> None:
        self.waits += 1
        self.wait_seconds += seconds

    def timed(self, name: str, action: Callable[[], None]) -> float:
        """Runs `action`, adds the seconds that it takes to the counter named `name`, and returns these seconds."""
        started = time.perf_counter()
        action()
        seconds = time.perf_counter() - started
        setattr(self, name, getattr(self, name) + seconds)
        return seconds
