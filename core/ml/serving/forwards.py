"""Runs sampling steps in batches of a few fixed sizes: pads them, replays them as CUDA graphs, and uses smaller batches
after memory ran out."""

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from core.ml.model.bank import AdapterBank
from core.ml.model.device import check_device, is_out_of_memory, pinned, release_memory
from core.ml.model.graphs import CudaGraphs
from core.ml.model.sizes import BatchSizes
from core.ml.serving.batches import SLOT, Batch, Graphs, Outcome, Place, make_batch, pack, split
from core.ml.serving.states import StateTable

logger = logging.getLogger(__name__)

BATCH_INVARIANT_ROWS = 8
"""On a CPU, the result of a batch row is bit-identical in all batches of at least this many rows."""
GPU_SIZES = (2, 4, 8, 16, 24, 32, 48, 64, 96, 128)
"""Batch sizes on a GPU. There are few, since each is captured as its own CUDA graph, but enough to keep padding below a
third of a batch, and below a quarter of a large batch."""
GPU_ROWS = ((36 * 2**30, GPU_SIZES[-1]), (20 * 2**30, 64))
"""Pairs of a GPU's min memory in bytes and the max batch rows of a step on such a GPU, where no max is configured. A
GPU with less memory gets `MIN_GPU_ROWS`."""
MIN_GPU_ROWS = 32


def buckets_for(device: torch.device, max_rows: int, *, exact: bool = False) -> tuple[int, ...]:
    """Returns the sizes to which batches of up to `max_rows` rows are padded, ascending.

    On a CPU a row's result does not depend on the batch if the batch has at least 8 rows, so all sizes are multiples of
    8. On a GPU the result also depends on the batch size, since the size selects the kernels. `exact` therefore returns
    a single size, which makes results bit-identical whatever else is in the batch.
    """
    if device.type == "cpu":
        top = -(-max_rows // BATCH_INVARIANT_ROWS) * BATCH_INVARIANT_ROWS
        sizes = list(range(BATCH_INVARIANT_ROWS, top, BATCH_INVARIANT_ROWS))
    else:
        top = max_rows
        sizes = [size for size in GPU_SIZES if size < top] + list(range(GPU_SIZES[-1] + 64, top, 64))
    return (top,) if exact else (*sizes, top)


def step_rows(device: torch.device, max_rows: int | None = None) -> int:
    """Returns the max number of batch rows in one step. `max_rows` is the configured max; None without one.

    A CPU computes a batch's rows one after another, so more than 8 rows gain no throughput, but make each tenant wait
    for the rows of the others: a CPU's steps have at most 8 rows. A GPU's default depends on its memory, since GPUs
    with less memory have fewer multiprocessors too, which fewer rows keep busy.
    """
    if device.type == "cpu":
        return min(max_rows or BATCH_INVARIANT_ROWS, BATCH_INVARIANT_ROWS)
    if max_rows is not None or device.type != "cuda":
        return max_rows or MIN_GPU_ROWS
    total = torch.cuda.get_device_properties(device).total_memory
    return next((rows for memory, rows in GPU_ROWS if total >= memory), MIN_GPU_ROWS)


class Forwards:
    """Computes sampling steps on the state tables. `table` returns the state table of a scale, which is the ratio of
    the image size to the base's image size. `buckets` are the batch sizes for images of the base's size; with a single
    bucket, an image does not depend on what else is in the batch. Raises ValueError when a bucket is below 2.

    On a GPU, the second step of a batch of each size is captured as a CUDA graph, and `capture_next` captures graphs in
    advance. `graphs` replaces the CUDA graphs, for tests.
    """

    def __init__(
        self, bank: AdapterBank, table: Callable[[int], StateTable], buckets: Sequence[int], graphs: Graphs | None
    ) -> None:
        if min(buckets) < 2:
            raise ValueError("a guided image takes two rows: every batch must have at least 2")
        self.bank, self.table, self.device = bank, table, bank.device
        self.sizes = BatchSizes(buckets)
        self.seconds = 0.0
        self.padded_rows = self.out_of_memory = 0
        self._batches: dict[tuple[int, int], Batch] = {}
        self._graphs = CudaGraphs(self.device) if graphs is None and self.device.type == "cuda" else graphs

    def compute(
        self, scale: int, places: Sequence[Place], noises: Sequence[Tensor | None]
    ) -> list[tuple[Tensor, Outcome]]:
        """Computes the next step of images of one size (`scale`), and returns one pair for each batch it took: the
        images' slots [R] in the state table, and their next latents and x0, [R, C, H, W]. Does not write to the state
        table.

        `noises` are the images' fresh noise; None for a step that adds none. Uses smaller batches when memory runs out,
        and raises the out-of-memory error when the smallest batch does not fit.
        """
        while True:
            limit = self._buckets(scale)[-1]
            try:
                outcomes = [self._part(scale, places[part], noises[part]) for part in split(places, limit)]
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if not self._shrink(scale, limit):
                    if self._graphs is None:
                        raise
                    self._give_graphs_up(error)  # the smallest batch may fit without a CUDA graph
            else:
                self.sizes.count_fit()
                return outcomes
            release_memory()

    def reset(self) -> None:
        """Drops all batches and their graphs. Must be called when a state table has grown: the batches still read its
        old address."""
        self._batches.clear()
        if self._graphs is not None:
            self._graphs.reset()

    @torch.inference_mode()
    def capture_next(self) -> None:
        """Captures the largest batch for images of the base's size that has no graph yet. Raises DeviceLost.

        Batches for larger images are not captured in advance: few requests need them, and each graph takes memory."""
        size = self.uncaptured[-1]
        try:
            for _ in range(2):  # the first run is not captured, the second is
                self._run(self._batch(1, size))
            return
        except (RuntimeError, MemoryError) as error:
            is_short = is_out_of_memory(error)
            if not is_short or not self._shrink(1, size):
                self._give_graphs_up(error)
        release_memory()
        if not is_short:
            check_device(self.device)

    @property
    def uncaptured(self) -> list[int]:
        """Batch sizes for images of the base's size of which no graph has been captured yet, ascending; empty without
        graphs."""
        captured = {size for (scale, size), batch in self._batches.items() if scale == 1 and batch.replay}
        return [] if self._graphs is None else [size for size in self._buckets(1) if size not in captured]

    def _part(self, scale: int, places: Sequence[Place], noises: Sequence[Tensor | None]) -> tuple[Tensor, Outcome]:
        count, used = len(places), sum(place.rows for place in places)
        size = next(bucket for bucket in self._buckets(scale) if bucket >= used)
        batch = self._batch(scale, size)
        batch.inputs.copy_(pinned(torch.from_numpy(pack(places, size)), self.device), non_blocking=True)
        if any(noise is not None for noise in noises):
            none = torch.zeros(self.table(scale).shape)
            fresh = torch.stack([none if noise is None else noise for noise in noises])
            batch.noise[:count].copy_(pinned(fresh, self.device), non_blocking=True)
        started = time.perf_counter()
        outcome = self._run(batch)
        self.seconds += time.perf_counter() - started
        slots = batch.inputs[SLOT, :count].long()
        self.padded_rows += (size - used) * scale**2
        return slots, Outcome(outcome.latents[:count].clone(), outcome.x0[:count].clone())

    def _run(self, batch: Batch) -> Outcome:
        """Computes a step of a batch. The first step of a batch size runs without a graph, which also loads and selects
        kernels; the second step is captured. So no image waits for a capture before its first step."""
        if batch.is_warm and batch.replay is None and self._graphs is not None:
            self._capture(batch, self._graphs)
        batch.is_warm = True
        return batch.compute() if batch.replay is None else batch.replay()

    def _capture(self, batch: Batch, graphs: Graphs) -> None:
        """Captures a batch as a graph. Raises an out-of-memory error. After any other error, captures no more graphs
        from then on, and raises DeviceLost if the device no longer computes."""
        try:
            batch.replay = graphs.capture(batch.compute)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            self._give_graphs_up(error)
            check_device(self.device)

    def _give_graphs_up(self, error: BaseException) -> None:
        logger.error("steps go on without CUDA graphs, more slowly: capturing one failed", exc_info=error)
        self._graphs = None

    def _batch(self, scale: int, size: int) -> Batch:
        if (scale, size) not in self._batches:
            self._batches[scale, size] = make_batch(size, self.table(scale), self.bank)
        return self._batches[scale, size]

    def _shrink(self, scale: int, limit: int) -> bool:
        """Limits the batch sizes to those below `limit` rows, after a batch of `limit` rows ran out of memory. Returns
        False if there is no smaller size."""
        self.out_of_memory += 1
        self.reset()
        smaller = [size for size in map(partial(self._scaled, scale=scale), self.sizes.in_use) if size < limit]
        if smaller:
            logger.warning("out of memory with %d rows: at most %d for a while", limit, smaller[-1])
            self.sizes.shrink_to(len(smaller))
        return bool(smaller)

    def _buckets(self, scale: int) -> list[int]:
        return sorted({self._scaled(size, scale) for size in self.sizes.in_use})

    def _scaled(self, size: int, scale: int) -> int:
        """Returns the batch size for images of a scale that takes as much memory as `size` images of the base's size:
        `size` divided by scale**2. The result has at least the two rows of a guided image, and on a CPU at least
        `BATCH_INVARIANT_ROWS`."""
        min_rows = BATCH_INVARIANT_ROWS if self.device.type == "cpu" else 2
        return max(min(min_rows, size), size // scale**2)
