"""Builds diffusers' transformer, scheduler and autoencoder with the weights of a base, for the alternatives to the
engine."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import DDIMScheduler, DiTTransformer2DModel
from torch import Tensor

from core.artifact.base import BaseConfig
from core.ml.model.autoencoder import Autoencoder
from core.ml.model.diffusers_format import config_to_diffusers, to_diffusers
from core.ml.model.dit import DiT


def transformer(dit: DiT, config: BaseConfig | None = None, state: Mapping[str, Tensor] | None = None) -> Any:
    """Returns diffusers' transformer with the weights of `dit`, or with the weights of a domain, given as `state` and
    `config`.

    All blocks share one embedder of timestep and class, since the public weights hold 28 equal copies of it. Changing
    the domain then writes the embedder only once.
    """
    config = config or dit.config
    network: Any = DiTTransformer2DModel(**config_to_diffusers(config))
    network.load_state_dict(to_diffusers(state or dit.state_dict(), config), strict=True)
    first, *others = network.transformer_blocks
    for block in others:
        block.norm1.emb = first.norm1.emb
    return network.to(dit.positions.device, dit.positions.dtype).eval().requires_grad_(False)


def ddim() -> Any:
    """Returns diffusers' DDIM scheduler with the noise schedule and the timesteps of the engine."""
    return DDIMScheduler(
        beta_start=1e-4, beta_end=0.02, beta_schedule="linear", timestep_spacing="trailing", clip_sample=False
    )


def autoencoder(coder: Autoencoder, dtype: torch.dtype) -> Any:
    """Returns a copy of the autoencoder's network in the transformer's dtype, which diffusers' pipelines require."""
    return copy.deepcopy(coder.network).to(dtype)


def pixels(images: Tensor) -> Tensor:
    """Converts images [B, 3, S, S] in 0..1 to 8-bit images [B, S, S, 3] on the host, the format that the engine
    returns."""
    return (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()
