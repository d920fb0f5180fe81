"""Makes sampling steps of images on the device, and keeps each image's state from its first step to its last."""

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
    """State of an image that is being sampled: its slot in the state table, and the values that the host keeps."""

    adapter: FoldedAdapter | None
    """Adapter at the request's scale; None for the base."""
    guide: FoldedAdapter | None
    """Adapter for the unconditional prediction: `adapter` itself, or a weaker version of it (see
    `SamplingSettings.guidance_adapter_scale`); None for the base."""
    table: StateTable
    slot: int
    coefficients: NDArray[np.float32]
    """[steps, 8]: the sampler's coefficients, one line for each step."""
    generator: torch.Generator
    """Generator of the image's noise, from its seed. It runs on the host, so that the noise is the same on every device
    and in every batch."""
    noise: Tensor | None = None
    """[C, H, W]: noise that was drawn in advance for the next step."""

    def draw_noise(self, position: int) -> Tensor | None:
        """Returns the fresh noise for the step at `position`, or None if the sampler adds no noise in this step. Draws
        it once, so that a step that is repeated after an error gets the same noise."""
        if self.noise is None and self.coefficients[position, -1]:
            self.noise = torch.randn(self.table.shape, generator=self.generator)
        return self.noise

    def place(self, row: Row, adapter: int, guide: int) -> Place:
        """Returns the inputs of the image's next step. `adapter` and `guide` are the slots of its adapters in the
        device's adapter table."""
        guidance = row.request.sampling.guidance_scale if row.guided else None
        return Place(self.slot, adapter, guide, row.timestep, guidance, self.coefficients[row.position])


class Runner:
    """Makes sampling steps of the images in progress. `buckets` and `graphs` are passed to `Forwards`."""

    def __init__(
        self, bank: AdapterBank, autoencoder: Autoencoder, buckets: Sequence[int], *, graphs: Graphs | None = None
    ) -> None:
        self.bank, self.device = bank, bank.device
        self.table: Callable[[int], StateTable] = cache(partial(StateTable, bank))
        """Returns the state table for images of a scale (their size relative to the base's), created at first use."""
        self.forwards = Forwards(bank, self.table, buckets, graphs)
        self.pixels = PixelDecoder(autoencoder, self.device, exact=len(buckets) == 1)
        self.activation_seconds = 0.0
        """Seconds that the last step took to copy adapters to the device."""
        self._states: dict[Row, RowState] = {}
        self._stepping: list[Row] = []
        self._last_end: torch.cuda.Event | None = None
        """End of the step that `wait` did not wait for."""

    def check(self) -> None:
        """Makes the device compute something small. Raises DeviceLost when it cannot."""
        check_device(self.device)

    def start(self, row: Row, adapter: FoldedAdapter | None) -> None:
        """Prepares an image for its first step: draws its initial noise, and stores its state on the device. Raises
        IndexError when the adapter has no such class, DeviceLost."""
        self._states[row] = with_memory(lambda: self._state(row, adapter))

    @torch.inference_mode()
    def _state(self, row: Row, adapter: FoldedAdapter | None) -> RowState:
        request, table = row.request, self.table(row.request.scale)
        sampling, scale = request.sampling, request.sampling.adapter_scale
        guide_scale = scale * sampling.guidance_adapter_scale
        classes = self.bank.classes(
            adapter,
            request.class_id,
            other_class=request.class_id if sampling.learned_guidance else request.mix_class,
            scale=scale,
            null_scale=guide_scale,
            base_class=request.base_class,
        )
        generator = torch.Generator().manual_seed(row.seed)
        noise = torch.randn(table.shape, generator=generator)
        if table.is_full:
            table.grow()
            self.forwards.reset()
        slot = table.add(pinned(noise, self.device), classes)
        scaled, guide = (adapter and adapter.at(scale) for scale in (scale, guide_scale))
        return RowState(scaled, guide, table, slot, coefficients(sampling).numpy(), generator)

    def is_started(self, row: Row) -> bool:
        return row in self._states

    def end(self, row: Row) -> None:
        """Frees the state of an image. Does nothing for an image that was never started."""
        if state := self._states.pop(row, None):
            state.table.free(state.slot)

    def latent(self, row: Row) -> Tensor:
        """Returns a copy [C, H, W] of the image's latents on the device. A GPU may still be computing it until `wait`
        has returned. Raises DeviceLost."""
        state = self._states[row]
        return with_memory(state.table.latents[state.slot].clone)

    def x0(self, row: Row) -> Tensor:
        """Returns a copy [C, H, W] on the device of the x0 that the image's last step predicted. A GPU may still be
        computing it until `wait` has returned. Raises DeviceLost."""
        state = self._states[row]
        return with_memory(state.table.x0[state.slot].clone)

    @torch.inference_mode()
    def step(self, rows: Sequence[Row]) -> None:
        """Makes one sampling step of each image; images of the same size share a forward pass. A GPU may still be
        computing when `step` returns: see `wait`.

        If it raises, no image's state has changed, so the step can be repeated. When memory runs out, batches are
        smaller for a while; raises DeviceLost when the smallest batch does not fit in several attempts.
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

    def wait(self, *, ahead: bool = False) -> None:
        """Waits until the device has finished the current step, or with `ahead` only the step before it, so that the
        host prepares the next step while the device computes. Draws the noise of the images' next steps meanwhile, so
        `Row.position` must already point to the next step. Raises DeviceLost for any error that the device reports
        here, since no request can be blamed for it."""
        started = time.perf_counter()
        for row in self._stepping:
            if not row.finished and (state := self._states.get(row)):
                state.draw_noise(row.position)
        self._stepping = []
        if self.device.type == "cuda":
            try:
                self._synchronize(ahead)
            except RuntimeError as error:
                raise DeviceLost(f"{type(error).__name__}: {error}") from error
        self.forwards.seconds += time.perf_counter() - started

    def _synchronize(self, ahead: bool) -> None:
        stream, end_before = torch.cuda.current_stream(self.device), self._last_end
        self._last_end = stream.record_event() if ahead else None
        if not ahead:
            stream.synchronize()
        elif end_before is not None:
            end_before.synchronize()

    def decode(self, latents: Sequence[Tensor]) -> list[Tensor]:
        """Decodes latents [C, H, W] into 8-bit pixels [S, S, 3] on the host. May run on another thread than the steps.
        The device must have finished computing the latents: see `wait`. Raises DrawingDiverged when an image's pixels
        are not finite, DeviceLost."""
        return with_memory(lambda: self.pixels.decode(latents))
