"""A computation over fixed buffers, launched as one CUDA graph where the device has such."""

import logging
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Generic, TypeVar

import torch

from core.ml.model.device import is_out_of_memory, release_memory
from core.ml.model.graphs import CudaGraphs

logger = logging.getLogger(__name__)

EAGER_CALLS = 3
"""Number of calls before a capture. A computation that runs less often is not worth capturing."""

Result = TypeVar("Result")
Capture = Callable[[Callable[[], Any]], Callable[[], Any]]
"""Turns a computation into a replay that writes the same results into fixed tensors. Raises RuntimeError."""


class Replayed(Generic[Result]):
    """Runs `compute` eagerly a few times, which loads what it needs, and as one graph from then on.

    All tensors that `compute` reads must stay where they are, on the device. A result is good until any computation of
    this process is replayed again: all of them share one memory pool, so that a graph more takes no activations more.
    """

    def __init__(self, compute: Callable[[], Result], capture: Capture | None) -> None:
        """`capture` None runs it eagerly every time."""
        self._run, self._capture = compute, capture
        self._calls = 0

    def __call__(self) -> Result:
        """Raises what `compute` raises."""
        self._calls += 1
        if self._capture is not None and self._calls > EAGER_CALLS:
            try:
                self._run = self._capture(self._run)
            except RuntimeError as error:
                # A device that is lost shows in the eager call. One that is short of memory computed the same eagerly.
                logger.warning("a step is not captured as a CUDA graph: %s", error)
                is_short = is_out_of_memory(error)
            else:
                is_short = False
            self._capture = None
            if is_short:
                release_memory()
        return self._run()


def capture_for(device: torch.device) -> Capture | None:
    return _graphs(device).capture if device.type == "cuda" else None


@lru_cache
def _graphs(device: torch.device) -> CudaGraphs:
    return CudaGraphs(device)
