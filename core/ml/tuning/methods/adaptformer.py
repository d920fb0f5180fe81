"""AdaptFormer (arXiv 2205.13535): a bottleneck parallel to or after the MLP of each block, and a new class table.

The bottleneck's output is added to the MLP's output before adaLN's gate multiplies the sum. The paper's transformer has
no such gate; there, too, the two outputs are added inside the MLP.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from core.artifact.additions import AdaptFormer
from core.ml.model.adapter import TensorAdapter


class AdaptFormerAdapter(TensorAdapter):
    def __init__(self, sites: AdaptFormer, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(tensors)
        self.sites = sites

    def mlp(self, name: str, hidden: Tensor, x: Tensor) -> Tensor:
        u = x if self.sites.placement == "parallel" else hidden
        return torch.add(hidden, self._bottleneck(f"{name}.adapter", u), alpha=self.sites.scale)

    def _bottleneck(self, name: str, u: Tensor) -> Tensor:
        """Returns up(ReLU(down(u))), [B, N, D], for u [B, N, D]."""
        down, up = f"{name}.down", f"{name}.up"
        return self._linear(up, F.relu(self._linear(down, u)))

    def _linear(self, name: str, x: Tensor) -> Tensor:
        weight, bias = (self.tensors[f"{name}.{kind}"].to(x.dtype) for kind in ("weight", "bias"))
        return F.linear(x, weight, bias)
