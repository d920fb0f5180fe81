"""One step of the device for a list of rows. Holds each row's state from its first step to its last."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.artifact.errors import DeviceLost
from core.ml.diffusion.samplers import coefficients
from core.ml.model.autoencoder import Autoencoder
from core.ml.model.bank import AdapterBank, FoldedAdapter
from core.ml.model.device import check_device, pinned, with_memory
from core.ml.serving.batches import Graphs, Outcome, Place
from core.ml.serving.forwards import Forwards
from core.ml.serving.pixels import PixelDecoder
from core.ml.serving.request import Row
from core.ml.serving.states import StateTable


@dataclass(eq=False)
class RowState:
    """State of a batch row in flight: its part of the state table, and what the host needs for its next step."""

    adapter: FoldedAdapter | None
    guide: FoldedAdapter | None
    """Adapter of the unconditional prediction: the same, or weaker."""
    table: StateTable
    slot: int
    coefficients: NDArray[np.float32]
    """[steps, 8]: its sampler's"""
    generator: torch.Generator
    """Its seed's noise, drawn on the host: the same on every device, whatever else is in the batch"""
    noise: Tensor | None = None
    """[C, H, W]: drawn for a step that is not made yet"""

    def draw_noise(self, position: int) -> Tensor | None:
        """Returns the fresh noise of the step at `position`, drawn once; None when the step needs none."""
        if self.noise is None and self.coefficients[position, -1]:
            self.noise = torch.randn(self.table.shape, generator=self.generator)
        return self.noise

    def place(self, row: Row, adapter: int, guide: int) -> Place:
        """Returns the inputs of the row's next step. `adapter` and `guide` are slots of the bank."""
        guidance = row.request.sampling.guidance_scale if row.guided else None
        return Place(self.slot, adapter, guide, row.timestep, guidance, self.coefficients[row.position])


class Runner:
    """Computes steps of rows in flight. `buckets` and `graphs` are those of its forwards."""

    def __init__(
        self, bank: AdapterBank, autoencoder: Autoencoder, buckets: Sequence[int], *, graphs: Graphs | None = None
    ) -> None:
        self.bank, self.device = bank, bank.device
        self.table: Callable[[int], StateTable] = cache(partial(StateTable, bank))
        """Returns the state table of a scale, made at its first use."""
        self.forwards = Forwards(bank, self.table, buckets, graphs)
        self.pixels = PixelDecoder(autoencoder, self.device, exact=len(buckets) == 1)
        self.activation_seconds = 0.0
        """Seconds in which the last step copied adapters to the device."""
        self._states: dict[Row, RowState] = {}
        self._stepping: list[Row] = []

    def check(self) -> None:
        """Makes the device compute something small. Raises DeviceLost when it cannot."""
        check_device(self.device)

    def start(self, row: Row, adapter: FoldedAdapter | None) -> None:
        """Prepares a row. Raises IndexError when the adapter has no such class, DeviceLost."""
        self._states[row] = with_memory(lambda: self._state(row, adapter))

    @torch.inference_mode()
    def _state(self, row: Row, adapter: FoldedAdapter | None) -> RowState:
        request, table = row.request, self.table(row.request.scale)
        scale = request.sampling.guidance_adapter_scale
        guide = None if adapter is None else adapter.at(scale)
        classes = self.bank.classes(adapter, request.class_id, scale)
        generator = torch.Generator().manual_seed(row.seed)
        noise = torch.randn(table.shape, generator=generator)
        if table.is_full:
            table.grow()
            self.forwards.reset()
        slot = table.add(pinned(noise, self.device), classes)
        return RowState(adapter, guide, table, slot, coefficients(request.sampling).numpy(), generator)

    def is_started(self, row: Row) -> bool:
        return row in self._states

    def end(self, row: Row) -> None:
        """Forgets a row; a row that was never started is no error."""
        if state := self._states.pop(row, None):
            state.table.free(state.slot)

    def latent(self, row: Row) -> Tensor:
        """Returns a copy [C, H, W] of the latents, complete once `wait` has returned. Raises DeviceLost."""
        state = self._states[row]
        return with_memory(state.table.latents[state.slot].clone)

    def x0(self, row: Row) -> Tensor:
        """Returns a copy [C, H, W] of the x0 that the last step predicted, complete once `wait` has returned. Raises
        DeviceLost."""
        state = self._states[row]
        return with_memory(state.table.x0[state.slot].clone)

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
                self.table(scale).store(slots, *outcome)
        for row in rows:
            self._states[row].noise = None
        self._stepping += rows

    def _outcomes(self, scale: int, rows: Sequence[Row]) -> list[tuple[Tensor, Outcome]]:
        started = time.perf_counter()
        states = [self._states[row] for row in rows]
        guides = [state.guide if row.guided else state.adapter for row, state in zip(rows, states, strict=True)]
        slots = self.bank.activate([*(state.adapter for state in states), *guides])
        self.activation_seconds += time.perf_counter() - started
        pairs = zip(slots[: len(rows)], slots[len(rows) :], strict=True)
        places = [state.place(row, *pair) for row, state, pair in zip(rows, states, pairs, strict=True)]
        noises = [state.draw_noise(row.position) for row, state in zip(rows, states, strict=True)]
        return self.forwards.compute(scale, places, noises)

    def wait(self) -> None:
        """Returns when the device has made the steps; draws the noise of the next ones meanwhile. Rows must have been
        moved on. Raises DeviceLost: an error that a device reports so late is its own."""
        started = time.perf_counter()
        for row in self._stepping:
            if not row.finished and (state := self._states.get(row)):
                state.draw_noise(row.position)
        self._stepping = []
        if self.device.type == "cuda":
            try:
                torch.cuda.current_stream(self.device).synchronize()
            except RuntimeError as error:
                raise DeviceLost(f"{type(error).__name__}: {error}") from error
        self.forwards.seconds += time.perf_counter() - started

    def decode(self, latents: Sequence[Tensor]) -> list[Tensor]:
        """Decodes latents, [C, H, W] each, to 8-bit pixels on the host, [S, S, 3] each. For a thread next to the steps;
        the latents must be complete. Raises DrawingDiverged when one of them is not finite, DeviceLost."""
        return with_memory(lambda: self.pixels.decode(latents))
