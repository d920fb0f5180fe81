"""Adapters of a ControlNet: which of its parameters train with each method, and files with these parameters.

With every method, the zero convolutions and the hint block's last one train. A file holds what trains, the rest of the
hint block, whose frozen weights are random and in no other file, and a digest of all other weights.
"""

import hashlib
from pathlib import Path
from typing import Any, Literal, Self

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.controlnet.factors import Factors
from core.ml.errors import CheckpointInvalid
from core.ml.model.tensors import stored_tensor

Method = Literal["full", "difffit", "lora"]
ZERO_CONVOLUTIONS = ("controlnet_down_blocks", "controlnet_mid_block")
HINT = "controlnet_cond_embedding"
HINT_ZERO = f"{HINT}.conv_out"
LORA_RANK = 4
LORA_LAYERS = ["to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2"]


class ControlNetAdapter:
    """ControlNet with one method attached: only the parameters that the method trains require gradients."""

    def __init__(self, network: nn.Module, method: Method) -> None:
        self.network, self.method = network, method
        self.factors = Factors(network) if method == "difffit" else None
        if method == "lora":
            from peft import LoraConfig, inject_adapter_in_model

            inject_adapter_in_model(LoraConfig(r=LORA_RANK, lora_alpha=LORA_RANK, target_modules=LORA_LAYERS), network)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(_trains(name, method))

    @property
    def trainables(self) -> dict[str, nn.Parameter]:
        factors = {} if self.factors is None else self.factors.parameters
        return {name: parameter for name, parameter in self.parameters.items() if parameter.requires_grad} | factors

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The ControlNet's own parameters, without factors."""
        return dict(self.network.named_parameters())

    def tensors(self) -> dict[str, Tensor]:
        """Returns what a file holds: the trainables and the whole hint block."""
        hint = {name: parameter for name, parameter in self.parameters.items() if name.startswith(HINT)}
        return {name: parameter.detach().cpu().contiguous() for name, parameter in (hint | self.trainables).items()}

    def save(self, path: Path) -> None:
        save_file(self.tensors(), path, {"method": self.method, "base": self.base_digest()})

    @classmethod
    def load(cls, path: Path, network: nn.Module) -> Self:
        """Attaches a saved adapter to a ControlNet. Raises CheckpointInvalid if the file is of another ControlNet."""
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        method: Any = metadata.get("method")
        if method not in ("full", "difffit", "lora"):
            raise CheckpointInvalid(f"{path} is no adapter of a ControlNet: it names no method.")
        adapter = cls(network, method)
        targets = adapter.parameters | adapter.trainables
        if other := sorted(adapter.tensors().keys() ^ stored.keys()):
            raise CheckpointInvalid(f"{path} does not fit the ControlNet: {_list(other)} are only in one of them.")
        if other := sorted(name for name in stored if stored[name].shape != targets[name].shape):
            raise CheckpointInvalid(f"{path} does not fit the ControlNet: {_list(other)} have other shapes.")
        if metadata.get("base") != adapter.base_digest():
            raise CheckpointInvalid(f"{path} was trained on a ControlNet with other frozen weights.")
        with torch.no_grad():
            for name, tensor in stored.items():
                targets[name].copy_(tensor)
        return adapter

    def base_digest(self) -> str:
        """Returns the digest of all weights that a file does not hold."""
        digest, held = hashlib.sha256(), self.tensors()
        for name, parameter in sorted(self.parameters.items()):
            if name not in held:
                digest.update(name.encode())
                digest.update(stored_tensor(name, parameter.detach()).data)
        return digest.hexdigest()


def _trains(name: str, method: Method) -> bool:
    return (
        method == "full"
        or name.startswith((*ZERO_CONVOLUTIONS, HINT_ZERO))
        or (method == "difffit" and name.endswith(".bias"))
        or (method == "lora" and ".lora_" in name)
    )


def _list(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
