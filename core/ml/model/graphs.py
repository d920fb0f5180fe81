"""CUDA graphs: a computation's launches recorded once, then replayed by one call."""

from collections.abc import Callable
from typing import TypeVar
from weakref import WeakSet

import torch

from core.ml.model.device import causes, is_out_of_memory, memory_lock

Outcome = TypeVar("Outcome")


class CudaGraphs:
    """Captures computations on one device. All graphs share a memory pool, so that they take the memory of the largest:
    replays must follow one another on one stream, and an outcome holds until the next replay."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device)  # no other thread's: work of others on it would spoil a capture
        self.reset()

    def reset(self) -> None:
        """Begins a new pool: the memory of the old one can be released once its last graph is gone."""
        self._pool = torch.cuda.graph_pool_handle()
        self._alive: WeakSet[torch.cuda.CUDAGraph] = WeakSet()

    def capture(self, compute: Callable[[], Outcome]) -> Callable[[], Outcome]:
        """Records `compute`, which has run before. Raises OutOfMemoryError, and RuntimeError when it cannot be
        recorded. Other threads go on using the device meanwhile: only this thread's calls can spoil the capture."""
        if not self._alive:
            self.reset()  # a pool ends with its last graph, and CUDA takes no other into it
        graph = torch.cuda.CUDAGraph()
        recording = torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local")
        # Restored even if ending the capture fails.
        callers_stream = torch.cuda.stream(torch.cuda.current_stream(self.device))
        try:
            with memory_lock, callers_stream, recording:
                outcome = compute()
        except RuntimeError as error:
            if any(is_out_of_memory(cause) for cause in causes(error)):  # ending the capture may hide it
                raise torch.OutOfMemoryError(f"out of memory while a graph was captured: {error}") from error
            raise
        self._alive.add(graph)

        def replay() -> Outcome:
            graph.replay()
            return outcome

        return replay
