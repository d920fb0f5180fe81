"""The autoencoder between pixels and latents: diffusers' `AutoencoderKL`, frozen.

The only file of the model that needs diffusers.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from core.artifact.base import StoredTensor, autoencoder_digest
from core.errors import BaseMissing
from core.model.tensors import stored_tensor


class Autoencoder:
    """Latents leave and enter in the transformer's scale: z = (sample - shift) * scaling_factor."""

    def __init__(self, network: Any, config: dict[str, Any]) -> None:
        self.network = network.eval().requires_grad_(False)
        self.config = config
        self.scale = float(config.get("scaling_factor") or 1.0)
        self.shift = float(config.get("shift_factor") or 0.0)
        self.digest = autoencoder_digest(config, self._stored())

    @classmethod
    def load(
        cls, folder: str | Path, *, device: torch.device | None = None, dtype: torch.dtype = torch.float32
    ) -> Self:
        """From a folder or hub id in diffusers' format. Raises BaseMissing."""
        from diffusers import AutoencoderKL

        try:
            network = AutoencoderKL.from_pretrained(str(folder))
        except (OSError, ValueError) as error:
            raise BaseMissing(str(folder), f"there is no autoencoder in diffusers' format ({error}).") from error
        network.disable_slicing()
        autoencoder = cls(network, json.loads(network.to_json_string()))
        network.to(device=device, dtype=dtype)
        return autoencoder

    @property
    def factor(self) -> int:
        """Pixels along one side of a latent position."""
        return int(2 ** (len(self.config["block_out_channels"]) - 1))

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 3, S, S] in [-1, 1] -> the posterior's mean and deviation, scaled, [B, C, H, W] each, in fp32."""
        with torch.no_grad():
            posterior = self.network.encode(self._as_network(pixels)).latent_dist
        mean = (posterior.mean.float() - self.shift) * self.scale
        return mean, posterior.std.float() * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, 3, S, S], about [-1, 1], in fp32."""
        with torch.no_grad():
            pixels: Tensor = self.network.decode(self._as_network(latents / self.scale + self.shift)).sample
        return pixels.float()

    def save(self, folder: Path, dtype: torch.dtype) -> None:
        self.network.to(dtype).save_pretrained(folder)

    def _as_network(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.network.device, self.network.dtype)

    def _stored(self) -> Iterator[StoredTensor]:
        for name, tensor in self.network.state_dict().items():
            yield stored_tensor(name, tensor)
