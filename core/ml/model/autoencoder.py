"""The autoencoder between pixels and latents: diffusers' `AutoencoderKL`, frozen.

No other file imports diffusers.
"""

import copy
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from core.artifact.base import StoredTensor, autoencoder_digest
from core.ml.errors import BaseMissing, CheckpointInvalid
from core.ml.model.device import is_lost
from core.ml.model.fused_decoder import FusedDecoder, can_fuse
from core.ml.model.tensors import stored_tensor

logger = logging.getLogger(__name__)
_DIGESTED = (
    "act_fn",
    "block_out_channels",
    "down_block_types",
    "in_channels",
    "latent_channels",
    "layers_per_block",
    "mid_block_add_attention",
    "norm_num_groups",
    "out_channels",
    "scaling_factor",
    "shift_factor",
    "up_block_types",
    "use_post_quant_conv",
    "use_quant_conv",
)
"""Settings that determine what the autoencoder computes. They are listed by name, so that settings which a later
diffusers adds do not change the digest, to which every adapter is bound."""


_LARGEST_DIFFERENCE = 0.1
"""Largest difference of a pixel in [-1, 1] that half precision may cause: 13 of 255 levels."""


def to_uint8(pixels: Tensor) -> Tensor:
    """Converts pixels in [-1, 1] into the 8-bit values of an image. Values outside are clipped."""
    return ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


class Autoencoder:
    """Encodes pixels as latents and decodes latents to pixels. All latents are in the transformer's scale: z = (sample
    - shift) * scaling_factor."""

    def __init__(self, network: Any) -> None:
        """Wraps `network`, an AutoencoderKL in fp32, as `load` makes it."""
        self.network = network.eval().requires_grad_(False)
        self.config: dict[str, Any] = json.loads(network.to_json_string())
        self.scale = float(self.config.get("scaling_factor") or 1.0)
        self.shift = float(self.config.get("shift_factor") or 0.0)
        self.digest = autoencoder_digest({name: self.config.get(name) for name in _DIGESTED}, self._stored())
        network.to(memory_format=torch.channels_last)  # makes a CPU decode a fifth faster
        self._fused: FusedDecoder | None = None

    @classmethod
    def load(cls, folder: str | Path, *, device: torch.device | None = None) -> Self:
        """Loads an autoencoder from a folder or hub id in diffusers' format. Raises BaseMissing if there is none,
        CheckpointInvalid if its tensors do not fit.

        The digest is computed in fp32, whatever the dtype in the file, so that equal values have equal digests.
        """
        from diffusers import AutoencoderKL

        try:
            network, loading = AutoencoderKL.from_pretrained(
                str(folder), torch_dtype=torch.float32, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise BaseMissing(str(folder), f"there is no autoencoder in diffusers' format ({error}).") from error
        # diffusers would only warn, and leave missing tensors at random values.
        if problems := [f"{kind}: {loading[kind]}" for kind in ("missing_keys", "unexpected_keys") if loading[kind]]:
            raise CheckpointInvalid(f"The autoencoder '{folder}' does not fit: {'; '.join(problems)}.")
        autoencoder = cls(network)
        network.to(device or "cpu")
        return autoencoder

    def in_dtype(self, dtype: torch.dtype) -> Self:
        """Returns a copy with weights in `dtype`, which computes in that dtype; in NCHW order, since a GPU has no norm
        for channels_last: on an H200, 64 images of 256 pixels take 164 ms instead of 229."""
        other = copy.copy(self)
        other.network, other._fused = copy.deepcopy(self.network), None
        other.network.to(dtype=dtype, memory_format=torch.contiguous_format)
        return other

    def for_decoding(self, dtype: torch.dtype) -> Self:
        """Returns a copy that decodes in `dtype`, on a GPU with a `FusedDecoder` if the network's structure allows it.
        Such a copy shares the original's network, with which it encodes. It decodes once, which compiles its kernels; a
        `FusedDecoder` that fails or decodes something else on this device is not used."""
        if can_fuse(self.network):
            other = copy.copy(self)
            other._fused = FusedDecoder(self.network, dtype)
            if self._decodes_like(other):
                return other
        return self.in_dtype(dtype)

    def _decodes_like(self, other: Self) -> bool:
        generator = torch.Generator().manual_seed(0)
        latents = torch.randn(1, self.latent_channels, 16, 16, generator=generator)
        expected = self.decode(latents)
        try:
            difference = float((other.decode(latents) - expected).abs().max())
        except Exception as error:  # Triton raises errors of many types
            if is_lost(error):
                raise
            logger.exception("images are decoded without fused operations, which failed")
            return False
        is_close = difference <= _LARGEST_DIFFERENCE
        if not is_close:
            logger.error("images are decoded without fused operations, which changed pixels by %.3g", difference)
        return is_close

    @property
    def factor(self) -> int:
        """Number of pixels along one side of a latent position."""
        return int(2 ** (len(self.config["block_out_channels"]) - 1))

    @property
    def latent_channels(self) -> int:
        return int(self.config["latent_channels"])

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Encodes pixels [B, 3, S, S] in [-1, 1]. Returns the posterior's mean and standard deviation in the
        transformer's scale, [B, C, H, W] each, in fp32."""
        with torch.no_grad():
            posterior = self.network.encode(self._as_network(pixels)).latent_dist
        mean = (posterior.mean.float() - self.shift) * self.scale
        return mean, posterior.std.float() * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        """Decodes latents [B, C, H, W] to pixels [B, 3, S, S], in about [-1, 1], in fp32."""
        latents = latents / self.scale + self.shift
        with torch.no_grad():
            if self._fused is not None:
                return self._fused(latents).float()
            pixels: Tensor = self.network.decode(self._as_network(latents)).sample
        return pixels.float()

    def save(self, folder: Path, dtype: torch.dtype) -> None:
        network = copy.deepcopy(self.network).to(memory_format=torch.contiguous_format)
        network.to(device="cpu", dtype=dtype).save_pretrained(folder)

    def _as_network(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.network.device, self.network.dtype)

    def _stored(self) -> Iterator[StoredTensor]:
        for name, tensor in self.network.state_dict().items():
            yield stored_tensor(name, tensor)
