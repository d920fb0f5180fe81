"""LoRA (arXiv 2106.09685): low-rank updates of attention's query, key and value matrices, and a new class table."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.artifact.additions import Lora
from core.ml.model.adapter import TensorAdapter


class LoraAdapter(TensorAdapter):
    def __init__(self, sites: Lora, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(tensors)
        self.sites = sites

    def linear(self, name: str, x: Tensor, layer: nn.Linear | nn.Conv2d) -> Tensor:
        y = super().linear(name, x, layer)
        attention, _, last = name.rpartition(".")
        if last != "qkv":
            return y
        if self.sites.matrices == "qkv":
            return y + self._update(name, x)
        q, k, v = y.chunk(3, dim=-1)  # each [B, N, D]
        return torch.cat([q + self._update(f"{attention}.query", x), k, v + self._update(f"{attention}.value", x)], -1)

    def _update(self, name: str, x: Tensor) -> Tensor:
        """Returns the low-rank update scale * up(down(x)), [B, N, out], for x [B, N, D]."""
        down, up = (self.tensors[f"{name}.{way}.weight"].to(x.dtype) for way in ("down", "up"))
        return self.sites.scale * F.linear(F.linear(x, down), up)
