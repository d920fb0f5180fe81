"""One step of the device for a list of rows. Holds each row's tensors from its first step to its last."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from core.diffusion.samplers import coefficients, guided_noise, step
from core.engine.request import Row
from core.errors import DrawingDiverged
from core.model.autoencoder import Autoencoder
from core.model.bank import BASE_SLOT, AdapterBank, FoldedAdapter
from core.model.device import check_device, is_out_of_memory, release_memory, with_memory
from core.model.dit import DiT
from core.model.folding import folded_forward
from core.model.sizes import BatchSizes

logger = logging.getLogger(__name__)

SOLITARY_ROWS = 8
"""From so many rows on, a CPU computes a row alike whatever the size of the batch."""


@dataclass(eq=False)
class RowState:
    """Tensors of a row in flight."""

    adapter: FoldedAdapter | None
    classes: Tensor
    """[2, D]: its class and the null class"""
    lines: Tensor
    """[steps, 8]: its sampler's coefficients, on the host"""
    generator: torch.Generator
    """Its seed's noise, on the host: the same on every device, whatever else is in the batch"""
    latent: Tensor
    """[C, H, W]"""
    x0: Tensor
    """[C, H, W]: where the last step saw it end"""
    fresh: Tensor | None = None
    """[C, H, W]: noise that was drawn for a step which did not come to its end"""


def buckets_for(device: torch.device, max_rows: int, *, exact: bool = False) -> tuple[int, ...]:
    """Sizes to which a batch of forward rows is padded, ascending.

    On the CPU a row's result does not depend on the batch from 8 rows on, so every size is a multiple of 8. A GPU picks
    its kernels by the size: `exact` keeps a single one, for results that are equal bit for bit.
    """
    top = -(-max_rows // SOLITARY_ROWS) * SOLITARY_ROWS
    if exact:
        return (top,)
    eights = tuple(range(SOLITARY_ROWS, top + 1, SOLITARY_ROWS))
    return eights if device.type == "cpu" else (1, 2, 4, *eights)


def step_rows(device: torch.device, max_rows: int) -> int:
    """Returns how many forward rows one step may have, of the `max_rows` that are configured.

    A CPU computes a batch's rows one after another: beyond 8 a larger step gains no throughput, and each of its tenants
    waits for the rows of all the others.
    """
    return min(max_rows, SOLITARY_ROWS) if device.type == "cpu" else max_rows


class Runner:
    """Computes. `compile` traces the forward once for each bucket: torch.compile, with CUDA graphs on a GPU."""

    def __init__(
        self, bank: AdapterBank, autoencoder: Autoencoder, buckets: Sequence[int], *, compile: bool = False
    ) -> None:
        self.bank, self.autoencoder, self.sizes = bank, autoencoder, BatchSizes(buckets)
        self.dit: DiT = bank.dit
        self.device = bank.device
        self.decode_rows = 1 if self.device.type == "cpu" else 8
        self.forward_seconds = self.activation_seconds = 0.0
        self.padded_rows = self.out_of_memory = 0
        self._states: dict[Row, RowState] = {}
        mode = "reduce-overhead" if self.device.type == "cuda" else "default"
        self._forward = torch.compile(self._gathered, dynamic=False, mode=mode) if compile else self._gathered
        self._side = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

    def check(self) -> None:
        """Makes the device compute something small. Raises DeviceLost when it cannot."""
        check_device(self.device)

    def start(self, row: Row, adapter: FoldedAdapter | None) -> None:
        """Prepares a row's tensors. Raises IndexError when the adapter has no such class, DeviceLost."""
        self._states[row] = with_memory(lambda: self._state(row, adapter))

    def _state(self, row: Row, adapter: FoldedAdapter | None) -> RowState:
        config, request = self.dit.config, row.request
        generator = torch.Generator().manual_seed(row.seed)
        size = config.input_size * request.scale
        noise = torch.randn(config.in_channels, size, size, generator=generator)
        latent = noise.to(self.device)
        classes = self.bank.classes(adapter, request.class_id)
        lines = coefficients(request.sampler, request.steps, request.eta)
        return RowState(adapter, classes, lines, generator, latent, torch.zeros_like(latent))

    def started(self, row: Row) -> bool:
        return row in self._states

    def end(self, row: Row) -> None:
        """Forgets a row; one that was never started is no error."""
        self._states.pop(row, None)

    def latent(self, row: Row) -> Tensor:
        """[C, H, W]"""
        return self._states[row].latent

    def x0(self, row: Row) -> Tensor:
        """[C, H, W]: where the row would end, seen from its last step."""
        return self._states[row].x0

    @torch.inference_mode()
    def step(self, rows: Sequence[Row]) -> None:
        """Moves each row one step on; rows of one size share a forward.

        Nothing has changed when it raises, so that the same step can be made again. Memory that runs out makes the
        batches smaller for a while; raises DeviceLost when the smallest does not fit, several times.
        """
        self.activation_seconds = 0.0
        scales = sorted({row.request.scale for row in rows})
        groups = [[row for row in rows if row.request.scale == scale] for scale in scales]
        predicted = [with_memory(partial(self._predicted, group)) for group in groups]
        moved = [
            with_memory(partial(self._moved, group, *prediction))
            for group, prediction in zip(groups, predicted, strict=True)
        ]
        for group, (latents, x0) in zip(groups, moved, strict=True):
            for index, row in enumerate(group):
                state = self._states[row]
                state.latent, state.x0, state.fresh = latents[index], x0[index], None

    def _predicted(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """The guided noise and the variance's interpolation, [R, C, H, W] each. Guided rows take a second,
        unconditional place behind all conditional ones."""
        states = [self._states[row] for row in rows]
        guided = [index for index, row in enumerate(rows) if row.guided]
        x = torch.stack([state.latent for state in states])  # [R, C, H, W]
        places = [(index, 0) for index in range(len(rows))] + [(index, 1) for index in guided]
        output = self._outputs(rows, states, x, places)
        noise, interpolation = output[: len(rows)].chunk(2, dim=1)
        if guided:
            scale = self._numbers([rows[index].request.guidance_scale for index in guided])
            unconditional, channels = output[len(rows) :, : x.shape[1]], self.dit.config.guidance_channels
            noise = noise.index_copy(
                0,
                torch.tensor(guided, device=self.device),
                guided_noise(noise[guided], unconditional, scale, channels),
            )
        return noise, interpolation

    def _moved(self, rows: Sequence[Row], noise: Tensor, interpolation: Tensor) -> tuple[Tensor, Tensor]:
        """The next latents and their ends, [R, C, H, W] each."""
        states = [self._states[row] for row in rows]
        x = torch.stack([state.latent for state in states])
        lines = torch.stack([state.lines[row.position] for state, row in zip(states, rows, strict=True)])
        fresh = torch.zeros(x.shape)
        for index in lines[:, -1].nonzero().flatten().tolist():
            state = states[index]
            if state.fresh is None:
                state.fresh = torch.randn(x.shape[1:], generator=state.generator)
            fresh[index] = state.fresh
        before = torch.stack([state.x0 for state in states])
        return step(x, noise, interpolation, before, fresh.to(self.device), lines.to(self.device))

    @torch.inference_mode()
    def decode(self, latents: Sequence[Tensor]) -> list[Tensor]:
        """[C, H, W] each -> 8-bit pixels [S, S, 3] each, on the host. For a thread beside the steps: on a GPU it runs
        on a stream of its own. Batches have one size, so that neighbours do not matter.

        Raises DrawingDiverged when one of them is not finite, DeviceLost."""
        return with_memory(lambda: self._decode_beside(latents))

    def _decode_beside(self, latents: Sequence[Tensor]) -> list[Tensor]:
        if self._side is None:
            return self._decode(latents)
        self._side.wait_stream(torch.cuda.default_stream(self.device))
        for latent in latents:
            latent.record_stream(self._side)
        with torch.cuda.stream(self._side):
            return self._decode(latents)

    def _decode(self, latents: Sequence[Tensor]) -> list[Tensor]:
        images: dict[int, Tensor] = {}
        sizes = {latent.shape[-1] for latent in latents}
        for same in [[index for index, latent in enumerate(latents) if latent.shape[-1] == size] for size in sizes]:
            for start in range(0, len(same), self.decode_rows):
                part = same[start : start + self.decode_rows]
                padded = part + part[:1] * (self.decode_rows - len(part))
                pixels = self.autoencoder.decode(torch.stack([latents[index] for index in padded]))[: len(part)]
                if not pixels.isfinite().all():
                    raise DrawingDiverged()
                pixels = ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
                images.update(zip(part, pixels.cpu(), strict=True))
        return [images[index] for index in range(len(latents))]

    def _outputs(
        self, rows: Sequence[Row], states: Sequence[RowState], x: Tensor, places: Sequence[tuple[int, int]]
    ) -> Tensor:
        """The model's output [places, 2C, H, W] in fp32, for (row, 0 conditional or 1 unconditional)."""
        started = time.perf_counter()
        slots = self.bank.activate([state.adapter for state in states])
        self.activation_seconds += time.perf_counter() - started
        scale = rows[0].request.scale
        while True:
            limit = self._buckets(scale)[-1]
            try:
                parts = [places[start : start + limit] for start in range(0, len(places), limit)]
                output = torch.cat([self._part(rows, states, x, slots, part) for part in parts])
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or not self._shrink(scale, limit):
                    raise
            else:
                self.sizes.count_fit()
                return output
            release_memory()

    def _shrink(self, scale: int, limit: int) -> bool:
        """Takes sizes out of use until a batch of this scale is smaller than `limit`; False when none is."""
        self.out_of_memory += 1
        sizes = self.sizes.in_use
        for count in range(len(sizes) - 1, 0, -1):
            if (smaller := self._scaled(sizes[count - 1], scale)) < limit:
                logger.warning("out of memory with %d rows: at most %d for a while", limit, smaller)
                self.sizes.shrink_to(count)
                return True
        return False

    def _part(
        self,
        rows: Sequence[Row],
        states: Sequence[RowState],
        x: Tensor,
        slots: Sequence[int],
        places: Sequence[tuple[int, int]],
    ) -> Tensor:
        scale = rows[0].request.scale
        size = next(bucket for bucket in self._buckets(scale) if bucket >= len(places))
        padding = size - len(places)
        padded = [*places, *[places[0]] * padding]
        index = torch.tensor([index for index, _ in padded], device=self.device)
        t = torch.tensor([rows[index].timestep for index, _ in padded], device=self.device)
        classes = torch.stack([states[index].classes[branch] for index, branch in padded])
        taken = torch.tensor([slots[index] for index, _ in places] + [BASE_SLOT] * padding, device=self.device)
        started = time.perf_counter()
        output = self._forward(x[index], t, classes, taken)[: len(places)].float()
        if self.device.type == "cuda":
            torch.cuda.current_stream().synchronize()  # else the loop would run ahead of cancels and arrivals
        self.forward_seconds += time.perf_counter() - started
        self.padded_rows += padding * scale**2
        return output

    def _gathered(self, x: Tensor, t: Tensor, classes: Tensor, slots: Tensor) -> Tensor:
        return folded_forward(self.dit, x, t, classes, self.bank.table[slots])

    def _buckets(self, scale: int) -> list[int]:
        return sorted({self._scaled(size, scale) for size in self.sizes.in_use})

    def _scaled(self, size: int, scale: int) -> int:
        """The batch of rows that are larger than the base's: fewer, but no fewer than keep a row's result its own."""
        fewest = SOLITARY_ROWS if self.device.type == "cpu" else 1
        return max(min(fewest, size), size // scale**2)

    def _numbers(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, device=self.device, dtype=torch.float32)
