"""One step of the device for a list of rows. Holds each row's tensors while it is in flight."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from core.diffusion.samplers import ddim_step, guided_noise
from core.diffusion.sampling import kept, seeded_noise
from core.engine.request import Row
from core.model.autoencoder import Autoencoder
from core.model.bank import BASE_SLOT, AdapterBank
from core.model.dit import DiT
from core.model.folding import folded_forward


@dataclass(eq=False)
class RowState:
    """Tensors of a row in flight."""

    latent: Tensor
    """[C, H, W]"""
    classes: Tensor
    """[2, D]: its class and the null class"""
    slot: int


class Runner:
    """Computes. On the CPU a row's result does not depend on its neighbours as long as the batch has at least
    `bucket` rows, so batches are padded to multiples of it."""

    def __init__(self, dit: DiT, autoencoder: Autoencoder, bank: AdapterBank, bucket: int = 8) -> None:
        self.dit, self.autoencoder, self.bank, self.bucket = dit, autoencoder, bank, bucket
        self.states: dict[Row, RowState] = {}

    def admit(self, row: Row) -> bool:
        """Prepares a row's tensors; False when no slot is free for its adapter."""
        adapter, config = row.request.adapter, self.dit.config
        classes = self.bank.classes(adapter, row.request.class_id)
        slot = self.bank.pin(adapter)
        if slot is None:
            return False
        shape = (config.in_channels, config.input_size, config.input_size)
        latent = seeded_noise([row.seed], shape)[0].to(self.dit.positions.device)
        self.states[row] = RowState(latent, classes, slot)
        return True

    def leave(self, row: Row) -> RowState:
        """Forgets a row in flight and unpins its adapter."""
        self.bank.unpin(row.request.adapter)
        return self.states.pop(row)

    @torch.inference_mode()
    def step(self, rows: Sequence[Row]) -> None:
        """Moves each row one step on. Guided rows take a second, unconditional place behind all conditional ones."""
        states = [self.states[row] for row in rows]
        guided = [index for index, row in enumerate(rows) if row.guided]
        latents = torch.stack([state.latent for state in states])  # [R, C, H, W]
        places = [(index, 0) for index in range(len(rows))] + [(index, 1) for index in guided]
        epsilon = self._forward(rows, states, latents, places)
        conditional = epsilon[: len(rows)]
        if guided:
            scale = self._numbers([rows[index].request.guidance_scale for index in guided])
            channels = self.dit.config.guidance_channels
            conditional[guided] = guided_noise(conditional[guided], epsilon[len(rows) :], scale, channels)
        now = self._numbers([kept(row.timestep) for row in rows])
        following = self._numbers([kept(row.next_timestep) for row in rows])
        for state, latent in zip(states, ddim_step(latents, conditional, now, following), strict=True):
            state.latent = latent

    @torch.inference_mode()
    def decode(self, latent: Tensor) -> Tensor:
        """[C, H, W] -> 8-bit pixels [S, S, 3] on the host. One at a time, so that neighbours cannot matter."""
        pixels = self.autoencoder.decode(latent[None])[0]
        return ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).cpu()

    def _forward(
        self, rows: Sequence[Row], states: Sequence[RowState], latents: Tensor, places: Sequence[tuple[int, int]]
    ) -> Tensor:
        """The predicted noise [places, C, H, W] in fp32, for (row, 0 conditional or 1 unconditional)."""
        padding = -len(places) % self.bucket
        padded = [*places, *[(0, 0)] * padding]
        device = latents.device
        x = latents[[index for index, _ in padded]]
        t = torch.tensor([rows[index].timestep for index, _ in padded], device=device)
        classes = torch.stack([states[index].classes[branch] for index, branch in padded])
        slots = torch.tensor([states[index].slot for index, _ in places] + [BASE_SLOT] * padding, device=device)
        output = folded_forward(self.dit, x, t, classes, self.bank.table[slots])
        return output[: len(places), : self.dit.config.in_channels].float()

    def _numbers(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, device=self.dit.positions.device, dtype=torch.float32)
