"""One step of the device for a list of rows. Holds each row's state from its first step to its last."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.artifact.errors import DeviceLost
from core.ml.diffusion.samplers import coefficients
from core.ml.model.autoencoder import Autoencoder
from core.ml.model.bank import AdapterBank, FoldedAdapter
from core.ml.model.device import check_device, is_out_of_memory, pinned, release_memory, with_memory
from core.ml.model.dit import DiT
from core.ml.model.graphs import CudaGraphs
from core.ml.model.sizes import BatchSizes
from core.ml.serving.batches import SLOT, Batch, Graphs, Outcome, Place, make_batch, pack, split
from core.ml.serving.pixels import PixelDecoder
from core.ml.serving.request import Row
from core.ml.serving.states import StateTable

logger = logging.getLogger(__name__)

BATCH_INVARIANT_ROWS = 8
"""On a CPU, batches of at least this size give bit-identical rows."""
GPU_SIZES = (2, 4, 8, 16, 24, 32, 48, 64, 96, 128)
"""Few, since each is a CUDA graph, and close enough that padding stays below a third, in large batches a quarter."""

GPU_ROWS = ((36 * 2**30, GPU_SIZES[-1]), (20 * 2**30, 64))
"""Memory of a GPU, and the rows of a step from it on, if the setting leaves that open."""
MIN_GPU_ROWS = 32


@dataclass(eq=False)
class RowState:
    """Host state of a batch row in flight. Its tensors are in the state table."""

    adapter: FoldedAdapter | None
    slot: int
    coefficients: NDArray[np.float32]
    """[steps, 8]: its sampler's"""
    generator: torch.Generator
    """Its seed's noise, drawn on the host: the same on every device, whatever else is in the batch"""
    noise: Tensor | None = None
    """[C, H, W]: drawn for a step that is not made yet"""

    def draw_noise(self, position: int, shape: tuple[int, int, int]) -> Tensor | None:
        """Returns the fresh noise of the step at `position`, drawn once; None when the step needs none."""
        if self.noise is None and self.coefficients[position, -1]:
            self.noise = torch.randn(shape, generator=self.generator)
        return self.noise


def buckets_for(device: torch.device, max_rows: int, *, exact: bool = False) -> tuple[int, ...]:
    """Sizes to which a batch of forward rows is padded, ascending.

    On a CPU a row's result does not depend on the batch from 8 rows on, so every size is a multiple of 8. A GPU picks
    its kernels by the size: `exact` keeps a single one, for results that are equal bit for bit.
    """
    if device.type == "cpu":
        top = -(-max_rows // BATCH_INVARIANT_ROWS) * BATCH_INVARIANT_ROWS
        sizes = list(range(BATCH_INVARIANT_ROWS, top, BATCH_INVARIANT_ROWS))
    else:
        top = max_rows
        sizes = [size for size in GPU_SIZES if size < top] + list(range(GPU_SIZES[-1] + 64, top, 64))
    return (top,) if exact else (*sizes, top)


def step_rows(device: torch.device, max_rows: int | None = None) -> int:
    """Returns how many forward rows one step may have, of the `max_rows` that are configured, if any are.

    A CPU computes a batch's rows one after another: beyond 8 a larger step gains no throughput, and each of its tenants
    waits for the rows of all the others. A GPU with little memory has few processors too, which few rows keep busy.
    """
    if device.type == "cpu":
        return min(max_rows or BATCH_INVARIANT_ROWS, BATCH_INVARIANT_ROWS)
    if max_rows is not None or device.type != "cuda":
        return max_rows or MIN_GPU_ROWS
    total = torch.cuda.get_device_properties(device).total_memory
    return next((rows for memory, rows in GPU_ROWS if total >= memory), MIN_GPU_ROWS)


class Runner:
    """Computes steps. `buckets` are the batch sizes, at least 2; with a single size, results do not depend on the
    batch.

    On a GPU a batch's second step is captured as a CUDA graph, and `capture_next` captures others ahead. `graphs`
    replaces the device's own graphs, in tests.
    """

    def __init__(
        self, bank: AdapterBank, autoencoder: Autoencoder, buckets: Sequence[int], *, graphs: Graphs | None = None
    ) -> None:
        if min(buckets) < 2:
            raise ValueError("a guided image takes two rows: every batch must have at least 2")
        self.bank, self.sizes = bank, BatchSizes(buckets)
        self.dit: DiT = bank.dit
        self.device = bank.device
        self.pixels = PixelDecoder(autoencoder, self.device, exact=len(buckets) == 1)
        self.forward_seconds = self.activation_seconds = 0.0
        self.padded_rows = self.out_of_memory = 0
        self._states: dict[Row, RowState] = {}
        self._tables: dict[int, StateTable] = {}
        self._batches: dict[tuple[int, int], Batch] = {}
        self._stepping: list[Row] = []
        self._graphs = CudaGraphs(self.device) if graphs is None and self.device.type == "cuda" else graphs

    def check(self) -> None:
        """Makes the device compute something small. Raises DeviceLost when it cannot."""
        check_device(self.device)

    def start(self, row: Row, adapter: FoldedAdapter | None) -> None:
        """Prepares a row. Raises IndexError when the adapter has no such class, DeviceLost."""
        self._states[row] = with_memory(lambda: self._state(row, adapter))

    @torch.inference_mode()
    def _state(self, row: Row, adapter: FoldedAdapter | None) -> RowState:
        request, table = row.request, self._table(row.request.scale)
        classes = self.bank.classes(adapter, request.class_id)
        generator = torch.Generator().manual_seed(row.seed)
        noise = torch.randn(table.shape, generator=generator)
        if table.is_full:
            table.grow()
            self._drop_batches()
        slot = table.add(pinned(noise, self.device), classes)
        return RowState(adapter, slot, coefficients(request.sampling).numpy(), generator)

    def _table(self, scale: int) -> StateTable:
        if scale not in self._tables:
            config = self.dit.config
            size = config.input_size * scale
            shape = (config.in_channels, size, size)
            self._tables[scale] = StateTable(shape, config.hidden_size, self.bank.dtype, self.device)
        return self._tables[scale]

    def is_started(self, row: Row) -> bool:
        return row in self._states

    def end(self, row: Row) -> None:
        """Forgets a row; a row that was never started is no error."""
        if state := self._states.pop(row, None):
            self._tables[row.request.scale].free(state.slot)

    def latent(self, row: Row) -> Tensor:
        """Returns a copy [C, H, W] of the latents, complete once `wait` has returned. Raises DeviceLost."""
        return self._copy(self._tables[row.request.scale].latents, row)

    def x0(self, row: Row) -> Tensor:
        """Returns a copy [C, H, W] of the x0 that the last step predicted, complete once `wait` has returned. Raises
        DeviceLost."""
        return self._copy(self._tables[row.request.scale].x0, row)

    def _copy(self, table: Tensor, row: Row) -> Tensor:
        return with_memory(table[self._states[row].slot].clone)

    @torch.inference_mode()
    def step(self, rows: Sequence[Row]) -> None:
        """Moves each row one step on; rows of one size share a forward. A GPU may still compute when it returns: see
        `wait`.

        Nothing has changed when it raises, so that the same step can be made again. Memory that runs out makes the
        batches smaller for a while; raises DeviceLost when the smallest does not fit, several times.
        """
        self.activation_seconds = 0.0
        groups: dict[int, list[Row]] = {}
        for row in rows:
            groups.setdefault(row.request.scale, []).append(row)
        outcomes = {scale: with_memory(partial(self._outcomes, scale, group)) for scale, group in groups.items()}
        for scale, parts in outcomes.items():
            for slots, outcome in parts:
                self._tables[scale].store(slots, *outcome)
        for row in rows:
            self._states[row].noise = None
        self._stepping += rows

    def wait(self) -> None:
        """Returns when the device has made the steps; draws the noise of the next ones meanwhile. Rows must have been
        moved on. Raises DeviceLost: an error that a device reports so late is its own."""
        started = time.perf_counter()
        for row in self._stepping:
            if not row.finished and (state := self._states.get(row)):
                state.draw_noise(row.position, self._tables[row.request.scale].shape)
        self._stepping = []
        if self.device.type == "cuda":
            try:
                torch.cuda.current_stream(self.device).synchronize()
            except RuntimeError as error:
                raise DeviceLost(f"{type(error).__name__}: {error}") from error
        self.forward_seconds += time.perf_counter() - started

    def decode(self, latents: Sequence[Tensor]) -> list[Tensor]:
        """Decodes latents, [C, H, W] each, to 8-bit pixels on the host, [S, S, 3] each. For a thread next to the steps;
        the latents must be complete. Raises DrawingDiverged when one of them is not finite, DeviceLost."""
        return with_memory(lambda: self.pixels.decode(latents))

    @torch.inference_mode()
    def capture_next(self) -> None:
        """Captures the largest batch for images of the base's size that has no graph yet. Raises DeviceLost.

        Batches of other sizes are captured when they are met: few requests ask for them, and each takes memory."""
        size = next(size for size in reversed(self._buckets(1)) if self._batch(1, size).replay is None)
        try:
            for _ in range(2):  # an ordinary run, then the one that is captured
                self._run(self._batch(1, size))
            return
        except (RuntimeError, MemoryError) as error:
            is_short = is_out_of_memory(error)
            if not is_short or not self._shrink(1, size):
                self._give_graphs_up(error)
        release_memory()
        if not is_short:
            self.check()

    @property
    def captured(self) -> set[int]:
        """Sizes of batches, for images of the base's size, that have a graph."""
        return {size for (scale, size), batch in self._batches.items() if scale == 1 and batch.replay}

    @property
    def has_uncaptured(self) -> bool:
        """Returns whether `capture_next` has something to do."""
        return self._graphs is not None and not self.captured.issuperset(self._buckets(1))

    def _outcomes(self, scale: int, rows: Sequence[Row]) -> list[tuple[Tensor, Outcome]]:
        """The step of rows of one size, in parts: slots [R] and their next latents and x0, [R, C, H, W]."""
        started = time.perf_counter()
        states = [self._states[row] for row in rows]
        adapters = self.bank.activate([state.adapter for state in states])
        self.activation_seconds += time.perf_counter() - started
        shape = self._tables[scale].shape
        places = [_place(*row_state) for row_state in zip(rows, states, adapters, strict=True)]
        noises = [state.draw_noise(row.position, shape) for row, state in zip(rows, states, strict=True)]
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
                    self._give_graphs_up(error)  # the smallest batch may fit without one
            else:
                self.sizes.count_fit()
                return outcomes
            release_memory()

    def _part(self, scale: int, places: Sequence[Place], noises: Sequence[Tensor | None]) -> tuple[Tensor, Outcome]:
        count, used = len(places), sum(place.rows for place in places)
        size = next(bucket for bucket in self._buckets(scale) if bucket >= used)
        batch = self._batch(scale, size)
        batch.inputs.copy_(pinned(torch.from_numpy(pack(places, size)), self.device), non_blocking=True)
        if any(noise is not None for noise in noises):
            none = torch.zeros(self._tables[scale].shape)
            fresh = torch.stack([none if noise is None else noise for noise in noises])
            batch.noise[:count].copy_(pinned(fresh, self.device), non_blocking=True)
        started = time.perf_counter()
        outcome = self._run(batch)
        self.forward_seconds += time.perf_counter() - started
        slots = batch.inputs[SLOT, :count].long()
        self.padded_rows += (size - used) * scale**2
        return slots, Outcome(outcome.latents[:count].clone(), outcome.x0[:count].clone())

    def _run(self, batch: Batch) -> Outcome:
        """A batch's first step is an ordinary one, which also loads and chooses kernels; the second is captured. So no
        image waits for a capture before its first step."""
        if batch.is_warm and batch.replay is None:
            self._capture(batch)
        batch.is_warm = True
        return batch.compute() if batch.replay is None else batch.replay()

    def _capture(self, batch: Batch) -> None:
        """Raises an error of memory. After any other error the steps continue without new graphs."""
        if self._graphs is None:
            return
        try:
            batch.replay = self._graphs.capture(batch.compute)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            self._give_graphs_up(error)
        if self._graphs is None:
            self.check()

    def _give_graphs_up(self, error: BaseException) -> None:
        logger.error("steps go on without CUDA graphs, more slowly: capturing one failed", exc_info=error)
        self._graphs = None

    def _batch(self, scale: int, size: int) -> Batch:
        if (scale, size) not in self._batches:
            self._batches[scale, size] = make_batch(size, self._table(scale), self.bank)
        return self._batches[scale, size]

    def _drop_batches(self) -> None:
        """With their graphs, whose memory is shared and so is released for all at once."""
        self._batches.clear()
        if self._graphs is not None:
            self._graphs.reset()

    def _shrink(self, scale: int, limit: int) -> bool:
        """Takes sizes out of use until a batch of this scale is smaller than `limit`. Returns False when none is."""
        self.out_of_memory += 1
        self._drop_batches()
        sizes = self.sizes.in_use
        for count in range(len(sizes) - 1, 0, -1):
            if (smaller := self._scaled(sizes[count - 1], scale)) < limit:
                logger.warning("out of memory with %d rows: at most %d for a while", limit, smaller)
                self.sizes.shrink_to(count)
                return True
        return False

    def _buckets(self, scale: int) -> list[int]:
        return sorted({self._scaled(size, scale) for size in self.sizes.in_use})

    def _scaled(self, size: int, scale: int) -> int:
        """The batch of rows that are larger than the base's: fewer, but no fewer than keep a row's result its own, or
        hold a guided image."""
        fewest = BATCH_INVARIANT_ROWS if self.device.type == "cpu" else 2
        return max(min(fewest, size), size // scale**2)


def _place(row: Row, state: RowState, adapter: int) -> Place:
    guidance = row.request.sampling.guidance_scale if row.guided else None
    return Place(state.slot, adapter, row.timestep, guidance, state.coefficients[row.position])
