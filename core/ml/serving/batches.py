"""Batches of fixed shape: the buffers on the device, and the computation of one sampling step over these buffers.

A sampling step is described by a table of numbers with one column for each batch row. So a step needs one copy of that
table to the device (two, if samplers add fresh noise) and, on a GPU, one replay of a CUDA graph. A guided image takes
two batch rows: a conditional row, and an unconditional row, which is the partner of the conditional row. The sampler's
step is computed for every batch row. The results of unconditional rows, and of rows that only pad the batch, are not
used.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.ml.diffusion.samplers import guided_noise, step
from core.ml.model.bank import AdapterBank
from core.ml.model.folding import folded_forward
from core.ml.serving.states import StateTable

SLOT, CLASS, TIMESTEP, ADAPTER, PARTNER, GUIDANCE, COEFFICIENTS = range(7)
"""Indices of the lines of `Batch.inputs`. The 8 lines from `COEFFICIENTS` on hold the sampler's coefficients. Slots and
timesteps are stored in fp32 too, which holds integers exactly up to 2^24."""
LINES = COEFFICIENTS + 8


class Outcome(NamedTuple):
    """Results of a sampling step: the next latents and the predicted x0, each [B, C, H, W] in fp32."""

    latents: Tensor
    x0: Tensor


Computation = Callable[[], Outcome]


class Graphs(Protocol):
    """Interface for capturing computations as graphs: CUDA graphs on a GPU, or a fake in tests."""

    def capture(self, compute: Computation) -> Computation:
        """Returns a function that replays `compute`: it reads the same buffers and overwrites the same results at every
        call. Raises OutOfMemoryError, or RuntimeError when `compute` cannot be captured."""
        ...

    def reset(self) -> None:
        """Frees the memory of all graphs. Called once no captured function is used any more."""
        ...


@dataclass(frozen=True)
class Place:
    """Inputs of one image for its next sampling step. `slot` is its index in the state table, `adapter` the index of
    its adapter in the device's adapter table."""

    slot: int
    adapter: int
    guide: int
    """Index of the adapter for the unconditional row, in the device's adapter table. Not used if this step is not
    guided."""
    timestep: int
    guidance: float | None
    """Guidance scale; None if this step is not guided."""
    coefficients: NDArray[np.float32]
    """[8]: the sampler's coefficients for this step"""

    @property
    def rows(self) -> int:
        return 1 if self.guidance is None else 2


@dataclass(eq=False)
class Batch:
    """Fixed buffers of a batch of B rows, and the computation that reads these buffers."""

    inputs: Tensor
    """[LINES, B] in fp32: the table of numbers that `pack` returns."""
    noise: Tensor
    """[B, C, H, W]: fresh noise. Rows whose step adds no noise may hold any finite numbers."""
    compute: Computation
    replay: Computation | None = None
    """Replays `compute` as a captured graph, once there is one. Each call overwrites the outcome of the last call."""
    is_warm: bool = False
    """Whether `compute` has run once. The first run loads and selects kernels, which a capture does not allow."""


def make_batch(size: int, states: StateTable, bank: AdapterBank) -> Batch:
    """Returns a batch of `size` rows. Its computation reads the state table and the adapter table at their current
    addresses, so make a new batch after a table has grown."""
    device, shape, config = states.latents.device, states.shape, bank.dit.config
    inputs = torch.zeros(LINES, size, device=device)
    noise = torch.zeros(size, *shape, device=device)
    latents, x0, classes = states.latents, states.x0, states.classes.flatten(0, 1)
    bank.dit.positions_for(shape[-1])  # cached now, since a capture allows no copy from the host

    def compute() -> Outcome:
        slots, class_rows, timesteps, adapters, partners = inputs[:GUIDANCE].long().unbind()
        x, vectors = latents.index_select(0, slots), bank.table.index_select(0, adapters)
        embeddings = classes.index_select(0, class_rows)
        output = folded_forward(bank.dit, x, timesteps, embeddings, vectors, bank.fp8).float()
        conditional, interpolation = output.chunk(2, dim=1)
        unconditional = conditional.index_select(0, partners)
        predicted = guided_noise(conditional, unconditional, inputs[GUIDANCE], config.guidance_channels)
        x0_before, lines = x0.index_select(0, slots), inputs[COEFFICIENTS:].t()
        return Outcome(*step(x, predicted, interpolation, x0_before=x0_before, fresh=noise, lines=lines))

    return Batch(inputs, noise, compute)


def pack(places: Sequence[Place], size: int) -> NDArray[np.float32]:
    """Returns the inputs [LINES, size] of a batch: one column for each image, then one unconditional column for each
    guided image, then copies of the first column as padding. A row without an unconditional partner is its own partner
    with a guidance scale of 1, which leaves its prediction unchanged."""
    count = len(places)
    guided = [index for index, place in enumerate(places) if place.guidance is not None]
    end = count + len(guided)
    inputs = np.empty((LINES, size), dtype=np.float32)
    inputs[SLOT, :count] = [place.slot for place in places]
    inputs[CLASS, :count] = 2 * inputs[SLOT, :count]
    inputs[TIMESTEP, :count] = [place.timestep for place in places]
    inputs[ADAPTER, :count] = [place.adapter for place in places]
    inputs[COEFFICIENTS:, :count] = np.transpose([place.coefficients for place in places])
    inputs[:, count:end] = inputs[:, guided]
    inputs[CLASS, count:end] += 1
    inputs[ADAPTER, count:end] = [places[index].guide for index in guided]
    inputs[:, end:] = inputs[:, :1]
    inputs[PARTNER] = np.arange(size)
    inputs[GUIDANCE] = 1.0
    inputs[PARTNER, guided] = np.arange(count, end)
    inputs[GUIDANCE, guided] = [places[index].guidance for index in guided]
    return inputs


def split(places: Sequence[Place], limit: int) -> list[slice]:
    """Splits `places` into parts of at most `limit` batch rows each, and returns the parts' slices. The two rows of a
    guided image are never separated, so `limit` must be at least 2."""
    parts, start, left = [], 0, limit
    for index, place in enumerate(places):
        if place.rows > left:
            parts.append(slice(start, index))
            start, left = index, limit
        left -= place.rows
    return [*parts, slice(start, len(places))]
