"""Counts the parameters that DiffFit would train on a ControlNet of Stable Diffusion's size (section 6 of arXiv
2304.06648).

ControlNet's copy of the encoder is frozen; the copy's scale factors, all biases and the zero convolutions train. The
network is built on the meta device, so that it needs neither memory nor weights.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from benchmarks.controlnet.adapter import HINT, HINT_ZERO, ZERO_CONVOLUTIONS
from benchmarks.controlnet.factors import factor_sites


@dataclass(frozen=True)
class ControlNetCounts:
    total: int
    """Number of parameters of the whole ControlNet, which all train without DiffFit."""
    zero_convolutions: int
    """Number of parameters of the 13 zero convolutions, with their biases."""
    hint_zero_convolution: int
    """Number of parameters of the last convolution of the hint network."""
    biases: int
    """Number of biases outside of the zero convolutions and the hint network's last convolution."""
    branch_factors: int
    """Number of factors on the output of each ResNet block, attention and feed-forward, as DiffFit has them in DiT."""
    attention_factors: int
    """Number of factors on query, key, value and the projection of each attention."""
    layer_factors: int
    """Number of factors if every output of every linear layer and convolution of the copy has one ("a scale factor in
    each layer"), instead of `branch_factors` and `attention_factors`."""

    @property
    def trainable(self) -> int:
        """Number of trainable parameters with factors on branches and attention, where DiffFit has them in DiT."""
        return self._without_factors + self.branch_factors + self.attention_factors

    @property
    def trainable_each_layer(self) -> int:
        return self._without_factors + self.layer_factors

    @property
    def _without_factors(self) -> int:
        return self.zero_convolutions + self.hint_zero_convolution + self.biases


def controlnet_counts() -> ControlNetCounts:
    """Counts the parameters of Stable Diffusion 1.x's ControlNet: diffusers' defaults, with text features of width
    768."""
    from diffusers import ControlNetModel

    with torch.device("meta"):
        network: Any = ControlNetModel(cross_attention_dim=768)
    return counts(network)


def counts(network: nn.Module) -> ControlNetCounts:
    """Counts the parameters of a ControlNet."""
    sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
    zero = {name: size for name, size in sizes.items() if name.startswith(ZERO_CONVOLUTIONS)}
    hint = {name: size for name, size in sizes.items() if name.startswith(HINT_ZERO)}
    factors = {name: site.outputs for name, site in factor_sites(network).items()}
    branches = sum(outputs for name, outputs in factors.items() if name.endswith(".branch"))
    return ControlNetCounts(
        total=sum(sizes.values()),
        zero_convolutions=sum(zero.values()),
        hint_zero_convolution=sum(hint.values()),
        biases=sum(size for name, size in sizes.items() if name.endswith(".bias") and name not in zero | hint),
        branch_factors=branches,
        attention_factors=sum(factors.values()) - branches,
        layer_factors=sum(_outputs(layer) for name, layer in network.named_modules() if _is_layer_of_copy(name, layer)),
    )


def _is_layer_of_copy(name: str, module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.Conv2d) and not name.startswith((*ZERO_CONVOLUTIONS, HINT))


def _outputs(layer: nn.Module) -> int:
    return int(layer.get_parameter("weight").shape[0])
