"""Measures time and memory on a GPU. On a CPU it measures elapsed time, so that every phase can run there too."""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import torch

WARM_UP = 2
LEAST, MOST = 3, 50
"""Minimum and maximum number of repetitions that count."""


def milliseconds(action: Callable[[], Any], device: torch.device, seconds: float) -> float:
    """Returns the median time of `action` over as many repetitions as fit into `seconds`: on a GPU by CUDA events, on a
    CPU elapsed time."""
    for _ in range(WARM_UP):
        action()
    once = clock_seconds(action, device)
    count = max(LEAST, min(MOST, int(seconds / max(once, 1e-6))))
    if device.type != "cuda":
        return 1000 * statistics.median(clock_seconds(action, device) for _ in range(count))
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    marks[0].record()
    for mark in marks[1:]:
        action()
        mark.record()
    torch.cuda.synchronize(device)
    return median([before.elapsed_time(after) for before, after in pairwise(marks)])


def clock_milliseconds(action: Callable[[], Any], device: torch.device, count: int) -> list[float]:
    """Returns the elapsed time of each of `count` repetitions of `action`, including its work on the host, after a
    warm-up."""
    for _ in range(WARM_UP):
        action()
    return [1000 * clock_seconds(action, device) for _ in range(count)]


def clock_seconds(action: Callable[[], Any], device: torch.device) -> float:
    """Runs `action`, and returns the elapsed seconds until the device has finished it."""
    synchronize(device)
    started = time.perf_counter()
    action()
    synchronize(device)
    return time.perf_counter() - started


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def graphed(action: Callable[[], Any], device: torch.device) -> Callable[[], Any]:
    """Captures `action` as a CUDA graph, which reads the same tensors in place, and returns a function that replays the
    graph. On a CPU it returns `action` itself."""
    if device.type != "cuda":
        return action
    side = _side_stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            action()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        output = action()

    def replay() -> Any:
        graph.replay()
        return output

    return replay


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """Returns the same stream for all graphs, since PyTorch keeps 32 MB for the matrix products of every stream."""
    return torch.cuda.Stream(device)


class PeakMemory:
    """Peak of the bytes allocated on the GPU since this object was created. Replaying a CUDA graph allocates nothing,
    so create it before the eager steps that precede the capture. On a CPU the peak is 0."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    @property
    def peak(self) -> int:
        return self._counted(torch.cuda.max_memory_allocated)

    @property
    def now(self) -> int:
        return self._counted(torch.cuda.memory_allocated)

    def _counted(self, count: Callable[[torch.device], int]) -> int:
        return count(self.device) if self.device.type == "cuda" else 0


def relative_error(result: torch.Tensor, reference: torch.Tensor) -> float:
    """Returns the norm of the difference divided by the reference's norm, in float64."""
    result, reference = result.double(), reference.double()
    return float((result - reference).norm() / reference.norm())


def largest_difference(result: torch.Tensor, reference: torch.Tensor) -> float:
    """Returns the largest absolute difference divided by the reference's root mean square, in float64."""
    result, reference = result.double(), reference.double()
    return float((result - reference).abs().max() / reference.square().mean().sqrt())


def median(values: Sequence[float]) -> float:
    return float(statistics.median(values))
