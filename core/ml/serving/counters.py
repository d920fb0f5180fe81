"""Sums of an engine's work so far, for metrics."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from core.ml.serving.request import Row


@dataclass
class Counters:
    """Sums since the start. Seconds are the loop's."""

    steps: int = 0
    rows: int = 0
    """Rows stepped: images, not the unconditional ones."""
    model_evaluations: int = 0
    """Forward rows, the unconditional ones included, without padding."""
    adapters: int = 0
    """Distinct adapters of each step."""
    images: int = 0
    waits: int = 0
    wait_seconds: float = 0.0
    """From submission to the first step, for each of `waits` requests."""
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
        """Adds the seconds that `action` takes to the sum `name`, and returns them."""
        started = time.perf_counter()
        action()
        seconds = time.perf_counter() - started
        setattr(self, name, getattr(self, name) + seconds)
        return seconds
