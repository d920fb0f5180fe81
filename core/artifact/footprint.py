"""Estimates the memory and the work of training from the shape of the base alone.

Letters: N tokens of an image, D hidden size, depth number of blocks.
"""

from dataclasses import dataclass
from typing import Self

from core.artifact.base import BaseConfig
from core.artifact.sites import METHODS, Method

PASSING = 20
"""Number of activations [N, D] per image that the forward and backward pass hold temporarily, at any depth."""
SLICE_OPERATIONS = {"cpu": 16e9, "cuda": 50e12}
"""Maximum number of floating-point operations in one slice of training, by device type: about 0.3 s on one CPU core,
0.4 s on an H100. Between slices, the device is free for other work.

The limit is a fixed number, not a measured time: the split into slices determines in which order gradients are summed,
and so how they round, but equal settings must give equal adapters.
"""


@dataclass(frozen=True)
class Footprint:
    """Memory and work that one image of a training batch takes."""

    step_bytes: int
    """Bytes of the activations that are kept from the forward to the backward pass, per image of a micro-batch."""
    batch_bytes: int
    """Bytes of latents, targets and noise on the host, per image of the whole batch."""
    operations: float
    """Floating-point operations of one image's forward pass and of the gradients of its activations."""

    @classmethod
    def of(cls, config: BaseConfig, method: Method, scale: int, device: str) -> Self:
        """Estimates the footprint of one image. `scale` is the image size divided by the base's image size. `device` is
        "cpu", which trains in fp32, or "cuda", which trains in bf16."""
        tokens, d = config.tokens * scale**2, config.hidden_size
        # Activations kept per block: 2 inputs of norms, 2 outputs of branches, 7 of attention including copies, and
        # the MLP's hidden layer.
        kept = 11 + config.mlp_ratio
        if method not in METHODS:  # gradients of weights need the layers' inputs too
            kept += 3 + config.mlp_ratio
        units = kept * config.depth + PASSING
        number = 4 if device == "cpu" else 2
        latent = config.in_channels * (config.input_size * scale) ** 2
        products = (4 + 2 * config.mlp_ratio) * d**2 + 2 * tokens * d  # multiply-adds of one token in one block
        return cls(int(tokens * d * units * number), 5 * 4 * latent, 2 * 2 * tokens * config.depth * products)

    def images_at_once(self, batch: int, device: str, memory_bytes: int | None) -> int:
        """Returns the largest micro-batch of a batch of `batch` images that stays within a slice's operations and
        within `memory_bytes`. Returns 0 if the memory does not suffice for one image."""
        by_time = self._images_in_time(device)
        if memory_bytes is None:
            return min(batch, by_time)
        by_memory = max(0, memory_bytes - batch * self.batch_bytes) // self.step_bytes
        return min(batch, by_time, by_memory)

    def rows_together(self, device: str, memory_bytes: int | None) -> int:
        """Returns how many images of several fine-tunes fit into one joint forward and backward pass. Assumes that no
        fine-tune's batch has more images than that."""
        by_time = self._images_in_time(device)
        return by_time if memory_bytes is None else min(by_time, memory_bytes // self.total_bytes(1, 1))

    def total_bytes(self, batch: int, at_once: int) -> int:
        return batch * self.batch_bytes + at_once * self.step_bytes

    def _images_in_time(self, device: str) -> int:
        return max(1, int(SLICE_OPERATIONS.get(device, SLICE_OPERATIONS["cuda"]) / self.operations))
