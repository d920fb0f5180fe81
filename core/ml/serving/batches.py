"""A batch of fixed shape: its buffers on the device, and the one computation over them.

All that changes from step to step is a table of numbers with a column for each row of the forward. So a step is one
copy to the device and, on a GPU, one replay of a CUDA graph. A guided image takes two rows: its own, and an
unconditional one that its own names as its partner. Every row moves by its sampler's step; the results of unconditional
rows, and of rows that only fill the batch, are not used.
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
"""Lines of a batch's inputs; the last is the first of 8. Integers are exact in fp32 up to 2^24."""
LINES = COEFFICIENTS + 8


class Outcome(NamedTuple):
    """Results of a step, [B, C, H, W] each in fp32."""

    latents: Tensor
    x0: Tensor


Computation = Callable[[], Outcome]


class Graphs(Protocol):
    """Turns a computation over fixed buffers into a replay that writes the same results into fixed buffers."""

    def capture(self, compute: Computation) -> Computation:
        """Raises OutOfMemoryError, and RuntimeError when the computation cannot be captured."""
        ...

    def reset(self) -> None:
        """Called when all replays have been dropped."""
        ...


@dataclass(frozen=True)
class Place:
    """One image's place in a batch."""

    slot: int
    adapter: int
    guide: int
    """Slot of the adapter that computes the unconditional row; not used by an image that is not guided."""
    timestep: int
    guidance: float | None
    """None for an image that is not guided."""
    coefficients: NDArray[np.float32]
    """[8]: its sampler's coefficients for this step"""

    @property
    def rows(self) -> int:
        return 1 if self.guidance is None else 2


@dataclass(eq=False)
class Batch:
    """Fixed buffers of a batch of B rows, and the computation over them."""

    inputs: Tensor
    """[LINES, B] in fp32"""
    noise: Tensor
    """[B, C, H, W]: fresh noise, anything finite where a row's step adds none"""
    compute: Computation
    replay: Computation | None = None
    """Computes the same; its next call overwrites the outcome."""
    is_warm: bool = False
    """Whether it has run once: kernels are loaded and chosen then, which a capture does not allow."""


def make_batch(size: int, states: StateTable, bank: AdapterBank) -> Batch:
    """Returns a batch of `size` rows, which reads the tables at their present addresses."""
    device, shape, config = states.latents.device, states.shape, bank.dit.config
    inputs = torch.zeros(LINES, size, device=device)
    noise = torch.zeros(size, *shape, device=device)
    latents, x0, classes = states.latents, states.x0, states.classes.flatten(0, 1)
    bank.dit.positions_for(shape[-1])  # made now: a capture allows no copy from the host

    def compute() -> Outcome:
        slots, class_rows, timesteps, adapters, partners = inputs[:GUIDANCE].long().unbind()
        x, vectors = latents.index_select(0, slots), bank.table.index_select(0, adapters)
        output = folded_forward(bank.dit, x, timesteps, classes.index_select(0, class_rows), vectors).float()
        conditional, interpolation = output.chunk(2, dim=1)
        unconditional = conditional.index_select(0, partners)
        predicted = guided_noise(conditional, unconditional, inputs[GUIDANCE], config.guidance_channels)
        x0_before, lines = x0.index_select(0, slots), inputs[COEFFICIENTS:].t()
        return Outcome(*step(x, predicted, interpolation, x0_before=x0_before, fresh=noise, lines=lines))

    return Batch(inputs, noise, compute)


def pack(places: Sequence[Place], size: int) -> NDArray[np.float32]:
    """The inputs [LINES, size] of a batch: a column for each image, then the unconditional columns of guided images,
    then copies of the first column. A row without a partner is its own, at a guidance of 1."""
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
    """Parts of at most `limit` rows, at least 2: an image's two rows are always in the same part."""
    parts, start, left = [], 0, limit
    for index, place in enumerate(places):
        if place.rows > left:
            parts.append(slice(start, index))
            start, left = index, limit
        left -= place.rows
    return [*parts, slice(start, len(places))]
