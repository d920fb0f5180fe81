"""Memory and work of training, estimated from the base's shape alone.

Letters: N tokens of an image, D hidden size, depth blocks.
"""

from dataclasses import dataclass
from typing import Self

from core.artifact.base import BaseConfig
from core.artifact.sites import METHODS, Method

PASSING = 20
"""Number of activations [N, D] that an image's forward and backward pass hold temporarily, whatever the depth."""
SLICE_OPERATIONS = {"cpu": 16e9, "cuda": 50e12}
"""Operations that one slice of the device's time may take: about 0.3 s of one core, 0.4 s of an H100.

A fixed number, not a measured time: the split determines how sums round, and equal settings must give equal adapters.
"""


@dataclass(frozen=True)
class Footprint:
    """Memory and work of one image of a training batch."""

    step_bytes: int
    """Activations from the forward to the backward pass, for each image that passes at once."""
    batch_bytes: int
    """Latents, targets and noise on the host, for each image of the whole batch."""
    operations: float
    """Floating-point operations of the forward pass and of the gradient of activations."""

    @classmethod
    def of(cls, config: BaseConfig, method: Method, scale: int, device: str) -> Self:
        """Estimates the footprint of one image. `scale` is the ratio of the image size to the base's. `device` is
        "cpu", which trains in fp32, or "cuda" in bf16."""
        tokens, d = config.tokens * scale**2, config.hidden_size
        # Kept of each block: 2 inputs of norms, 2 branches, 7 of attention with its copies, the MLP's hidden layer.
        kept = 11 + config.mlp_ratio
        if method not in METHODS:  # their weights' gradients need the layers' inputs too
            kept += 3 + config.mlp_ratio
        units = kept * config.depth + PASSING
        number = 4 if device == "cpu" else 2
        latent = config.in_channels * (config.input_size * scale) ** 2
        products = (4 + 2 * config.mlp_ratio) * d**2 + 2 * tokens * d  # multiply-adds of one token in one block
        return cls(int(tokens * d * units * number), 5 * 4 * latent, 2 * 2 * tokens * config.depth * products)

    def images_at_once(self, batch: int, device: str, memory_bytes: int | None) -> int:
        """Returns how many images of a batch may pass at once, within a slice's time and `memory_bytes`. Returns 0 when
        the memory does not suffice for one."""
        by_time = self._images_in_time(device)
        if memory_bytes is None:
            return min(batch, by_time)
        by_memory = max(0, memory_bytes - batch * self.batch_bytes) // self.step_bytes
        return min(batch, by_time, by_memory)

    def rows_together(self, device: str, memory_bytes: int | None) -> int:
        """Returns how many images of several fine-tunes may pass at once. Assumes that their batches have no more
        images than that."""
        by_time = self._images_in_time(device)
        return by_time if memory_bytes is None else min(by_time, memory_bytes // self.total_bytes(1, 1))

    def total_bytes(self, batch: int, at_once: int) -> int:
        return batch * self.batch_bytes + at_once * self.step_bytes

    def _images_in_time(self, device: str) -> int:
        return max(1, int(SLICE_OPERATIONS.get(device, SLICE_OPERATIONS["cuda"]) / self.operations))
