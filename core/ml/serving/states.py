"""Tables on the device that hold the state of every row in flight, by slot."""

import torch
from torch import Tensor

from core.ml.model.bank import AdapterBank

FIRST_SLOTS = 128


class StateTable:
    """States of the rows of one image size, `scale` times the base's. A row's slot is its place in each table, from
    `add` to `free`.

    `latents` and `x0` are [S, C, H, W] in fp32, where `shape` is [C, H, W], and `classes` [S, 2, D]: a row's class and
    the null class. x0 is the one predicted at the previous step, which multistep samplers need. `grow` doubles the
    tables, which have other addresses then.
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
        """Doubles the tables. Nothing has changed when it raises."""
        latents, x0, classes = (_doubled(table) for table in (self.latents, self.x0, self.classes))
        self._free = list(reversed(range(len(self.latents), len(latents))))
        self.latents, self.x0, self.classes = latents, x0, classes

    def add(self, latent: Tensor, classes: Tensor) -> int:
        """Stores the start of a row, a latent [C, H, W] and its classes [2, D], and returns its slot.

        Raises IndexError when the table is full. A failed copy does not use up a slot.
        """
        slot = self._free[-1]
        self.latents[slot].copy_(latent, non_blocking=True)
        self.x0[slot].zero_()
        self.classes[slot].copy_(classes, non_blocking=True)
        return self._free.pop()

    def free(self, slot: int) -> None:
        self._free.append(slot)

    def store(self, slots: Tensor, latents: Tensor, x0: Tensor) -> None:
        """Writes the results of a step for slots [B]: latents and x0 [B, C, H, W]."""
        self.latents.index_copy_(0, slots, latents)
        self.x0.index_copy_(0, slots, x0)


def _doubled(table: Tensor) -> Tensor:
    return torch.cat([table, torch.zeros_like(table)])
