"""Runs a computation over fixed buffers, on a GPU as one CUDA graph."""

import logging
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Generic, TypeVar

import torch

from core.ml.model.device import is_out_of_memory, release_memory
from core.ml.model.graphs import CudaGraphs

logger = logging.getLogger(__name__)

EAGER_CALLS = 3
"""Number of eager calls before a computation is captured, since capturing costs more than a few calls gain."""

Result = TypeVar("Result")
Capture = Callable[[Callable[[], Any]], Callable[[], Any]]
"""Function that captures a computation as a graph. Returns a function that replays the graph and writes its results
into the same tensors at every call. Raises RuntimeError when the computation cannot be captured."""


class Replayed(Generic[Result]):
    """Runs `compute` eagerly for the first `EAGER_CALLS` calls, which also loads kernels, and as a captured graph
    afterwards.

    All tensors that `compute` reads must be on the device and keep their addresses. A result is valid only until any
    graph of this process is replayed: all graphs share one memory pool, so that a further graph needs no memory for its
    own activations.
    """

    def __init__(self, compute: Callable[[], Result], capture: Capture | None) -> None:
        """With `capture` None, `compute` always runs eagerly."""
        self._run, self._capture = compute, capture
        self._calls = 0

    def __call__(self) -> Result:
        """Returns the result of `compute`, and raises its errors. If capturing fails, runs eagerly from then on."""
        self._calls += 1
        if self._capture is not None and self._calls > EAGER_CALLS:
            try:
                self._run = self._capture(self._run)
            except RuntimeError as error:
                # If the device is lost, the eager call below raises. If memory ran out, it succeeds as before.
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
