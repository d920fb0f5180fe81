"""CUDA graphs: a computation's kernel launches are recorded once, then replayed by one call."""

from collections.abc import Callable
from typing import TypeVar
from weakref import WeakSet

import torch

from core.ml.model.device import causes, is_out_of_memory, memory_lock

Outcome = TypeVar("Outcome")


class CudaGraphs:
    """Captures computations on one device as CUDA graphs. All graphs share a memory pool, so that together they take
    only the memory of the largest. Therefore graphs must be replayed one after another on one stream, and the result of
    a replay is valid until the next replay."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device)  # not shared: other work on it would spoil a capture
        self.reset()

    def reset(self) -> None:
        """Starts a new memory pool. The memory of the old pool can be released once its last graph is gone."""
        self._pool = torch.cuda.graph_pool_handle()
        self._alive: WeakSet[torch.cuda.CUDAGraph] = WeakSet()

    def capture(self, compute: Callable[[], Outcome]) -> Callable[[], Outcome]:
        """Captures `compute`, which must have run before, and returns a function that replays it. Raises
        OutOfMemoryError, and RuntimeError if `compute` cannot be captured. Other threads may use the device meanwhile:
        only this thread's calls can spoil the capture."""
        if not self._alive:
            self.reset()  # CUDA accepts no new graph into a pool whose last graph is gone
        graph = torch.cuda.CUDAGraph()
        recording = torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local")
        # Restores the caller's stream even if ending the capture fails.
        callers_stream = torch.cuda.stream(torch.cuda.current_stream(self.device))
        try:
            with memory_lock, callers_stream, recording:
                outcome = compute()
        except RuntimeError as error:
            if any(is_out_of_memory(cause) for cause in causes(error)):  # ending the capture may hide the cause
                raise torch.OutOfMemoryError(f"out of GPU memory while capturing a CUDA graph: {error}") from error
            raise
        self._alive.add(graph)

        def replay() -> Outcome:
            graph.replay()
            return outcome

        return replay
