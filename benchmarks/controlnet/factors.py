"""DiffFit's scale factors for diffusers' UNets and ControlNets. Forward hooks multiply the outputs of named layers; no
class of diffusers is replaced.

A factor has one value for each output of its layer. As in DiT, each attention has factors on query, key, value and
projection, and each branch (ResNet block, attention, feed-forward) has one on its output, before it is added to its
input.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "projection": "to_out.0"}


@dataclass(frozen=True)
class Site:
    layer: str
    """Name of the layer whose outputs the factor multiplies."""
    outputs: int


def factor_sites(network: nn.Module) -> dict[str, Site]:
    """Returns the sites of all factors by the factors' names, `<module>.<kind>`."""
    return {
        f"{name}.{kind}": Site(f"{name}.{layer}", module.get_submodule(layer).get_parameter("weight").shape[0])
        for name, module in network.named_modules()
        for kind, layer in _layers(module).items()
    }


class Factors:
    """Factors of a network, 1 at the start. They act on the network's forward until `fold`."""

    def __init__(self, network: nn.Module) -> None:
        self.network, self.sites = network, factor_sites(network)
        self.parameters: dict[str, nn.Parameter] = {}
        self._hooks = []
        for name, site in self.sites.items():
            layer = network.get_submodule(site.layer)
            factor = nn.Parameter(torch.ones(site.outputs, device=layer.get_parameter("weight").device))
            self.parameters[name] = factor
            self._hooks.append(layer.register_forward_hook(partial(_scaled, factor)))

    @torch.no_grad()
    def fold(self) -> None:
        """Multiplies the factors into the layers' weights and biases. The network then needs no hooks."""
        for hook in self._hooks:
            hook.remove()
        for name, site in self.sites.items():
            for parameter in self.network.get_submodule(site.layer).parameters(recurse=False):
                parameter.mul_(_shaped(self.parameters[name], parameter.ndim - 1))


def _layers(module: Any) -> dict[str, str]:
    match type(module).__name__:
        case "ResnetBlock2D":
            return {"branch": "conv2"}
        case "FeedForward":
            return {"branch": f"net.{len(module.net) - 1}"}
        case "Attention":
            return {**ATTENTION, "branch": ATTENTION["projection"]}
    return {}


def _scaled(factor: nn.Parameter, layer: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
    # In fp32, since bf16 has no value between 1 and 1.008.
    return (output * _shaped(factor, 2 if isinstance(layer, nn.Conv2d) else 0)).to(output.dtype)


def _shaped(factor: Tensor, trailing: int) -> Tensor:
    return factor.view(-1, *[1] * trailing)
