"""A computation over fixed buffers, launched as one CUDA graph where the device has such."""

import logging
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Generic, TypeVar

import torch

from core.model.device import is_out_of_memory

logger = logging.getLogger(__name__)

EAGER_CALLS = 3
"""Calls before a capture: what is computed less often is not worth one."""

Result = TypeVar("Result")

Capture = Callable[[Callable[[], Any]], tuple[Any, Callable[[], None]]]
"""Records a computation. Returns its result and what replays it: it writes the next result in the same place."""


class Replayed(Generic[Result]):
    """Runs `compute` eagerly a few times, which loads what it needs, and as one graph from then on.

    All tensors that `compute` reads must stay where they are, on the device. A result is good until any computation of
    this process is replayed again: all of them share one memory pool, so that a graph more takes no activations more.
    """

    def __init__(self, compute: Callable[[], Result], capture: Capture | None) -> None:
        """`capture` None runs it eagerly every time."""
        self._compute, self._capture = compute, capture
        self._calls = 0
        self._captured: tuple[Result, Callable[[], None]] | None = None

    def __call__(self) -> Result:
        """Raises what `compute` raises, memory that ran out during the capture included."""
        self._calls += 1
        if self._captured is None and self._capture is not None and self._calls > EAGER_CALLS:
            self._try_capture(self._capture)
        if self._captured is None:
            return self._compute()
        result, replay = self._captured
        replay()
        return result

    def _try_capture(self, capture: Capture) -> None:
        """Leaves it eager for good when it cannot be captured. A device that is lost shows in the eager call."""
        try:
            self._captured = capture(self._compute)
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error) or is_out_of_memory(error.__context__ or error):
                raise torch.OutOfMemoryError(f"out of memory while a step was captured: {error}") from error
            logger.warning("a step is not captured as a CUDA graph", exc_info=error)
            self._capture = None


def capture_for(device: torch.device) -> Capture | None:
    return _cuda_capture if device.type == "cuda" else None


def _cuda_capture(compute: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
    graph = torch.cuda.CUDAGraph()
    # Of this thread alone: the decoder and the adapter cache may use the device meanwhile.
    with torch.cuda.graph(graph, pool=_pool(), capture_error_mode="thread_local"):
        result = compute()
    return result, graph.replay


@lru_cache
def _pool() -> Any:
    return torch.cuda.graph_pool_handle()
