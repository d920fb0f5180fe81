"""Tables on the device that hold the latents of all images in progress, one slot for each image."""

import torch
from torch import Tensor

from core.ml.model.bank import AdapterBank

FIRST_SLOTS = 128


class StateTable:
    """State of the images of one size, which is `scale` times the base's image size. An image occupies one slot, the
    same index in each of the three tables, from `add` to `free`.

    With S slots: `latents` [S, C, H, W] in fp32, where `shape` is [C, H, W]; `x0` [S, C, H, W] in fp32, predicted at
    the previous step, which multistep samplers need; `classes` [S, 2, D], the embeddings of the image's class and of
    the null class. `grow` doubles the tables and thereby changes their addresses.
    """

    def __init__(self, bank: AdapterBank, scale: int) -> None:
        config = bank.dit.config
        self.shape = (config.in_channels, config.input_size * scale, config.input_size * scale)
        self.latents = torch.zeros(FIRST_SLOTS, *self.shape, device=bank.device)
        self.x0 = torch.zeros_like(self.latents)
        self.classes = torch.zeros(FIRST_SLOTS, 2, config.hidden_size, dtype=bank.dtype, device=bank.device)
        self._free = list(reversed(range(FIRST_SLOTS)))

    @property
    def is_full(self) -> bool:
        return not self._free

    def grow(self) -> None:
        """Doubles the number of slots. If it raises, the tables are unchanged. Call it only when no slot is free."""
        latents, x0, classes = (_doubled(table) for table in (self.latents, self.x0, self.classes))
        self._free = list(reversed(range(len(self.latents), len(latents))))
        self.latents, self.x0, self.classes = latents, x0, classes

    def add(self, latent: Tensor, classes: Tensor) -> int:
        """Stores a new image's latent [C, H, W] and class embeddings [2, D] in a free slot, and returns the slot.

        Raises IndexError when no slot is free. If copying fails, no slot is taken.
        """
        slot = self._free[-1]
        self.latents[slot].copy_(latent, non_blocking=True)
        self.x0[slot].zero_()
        self.classes[slot].copy_(classes, non_blocking=True)
        return self._free.pop()

    def free(self, slot: int) -> None:
        self._free.append(slot)

    def store(self, slots: Tensor, latents: Tensor, x0: Tensor) -> None:
        """Writes the results of a step, latents and x0 [B, C, H, W], to the slots [B]."""
        self.latents.index_copy_(0, slots, latents)
        self.x0.index_copy_(0, slots, x0)


def _doubled(table: Tensor) -> Tensor:
    return torch.cat([table, torch.zeros_like(table)])
