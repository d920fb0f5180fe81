"""Interface of an adapter: the changes to the base's forward that `core.ml.model.dit` asks for.

Letters in shapes: B images, N tokens, D hidden size.
"""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from core.artifact.sites import CLASS_TABLE
from core.ml.model.functions import linear, scaled


class Adapter:
    """The base itself, without changes. A tuning method overrides the parts that it changes."""

    def linear(self, name: str, x: Tensor, layer: nn.Linear | nn.Conv2d) -> Tensor:
        """The output of the linear layer `name` for x [..., in] -> [..., out]. A patch convolution comes flattened."""
        return linear(x, layer.weight.flatten(1), layer.bias)

    def modulation(self, norm: str, shift: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Shift and scale (1 + adaLN's), each [B, D], behind the norm `norm`."""
        return shift, scale

    def gate(self, branch: str, gate: Tensor) -> Tensor:
        """adaLN's gate [B, D] in front of the residual branch `branch` ("blocks.0.attn", "blocks.0.mlp")."""
        return gate

    def mlp(self, name: str, hidden: Tensor, x: Tensor) -> Tensor:
        """The output of the MLP `name` ("blocks.0.mlp"), [B, N, D], in front of its gate. x [B, N, D] is the residual
        stream in front of its norm."""
        return hidden

    def tokens(self, name: str, x: Tensor) -> Tensor:
        """The tokens that enter "blocks.0" ... and "final_layer", which must get the image's alone: [B, N, D]."""
        return x

    def classes(self, table: Tensor, y: Tensor) -> Tensor:
        """The class embedding: base table [classes + 1, D], y [B] -> [B, D]."""
        return F.embedding(y, table)


BASE = Adapter()


class TensorAdapter(Adapter):
    """An adapter made of named tensors, as DiffFit, BitFit and full fine-tuning have them (see
    `core.artifact.sites`): a weight or bias replaces the base's, a factor multiplies after the bias, an affine norm is
    merged into the modulation that follows it. Names without a tensor leave the base unchanged.

    Tensors are used in the dtype of the activations; gradients reach them in their own.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors

    def linear(self, name: str, x: Tensor, layer: nn.Linear | nn.Conv2d) -> Tensor:
        weight = self.tensors.get(f"{name}.weight", layer.weight).to(x.dtype)
        bias = self.tensors.get(f"{name}.bias", layer.bias)
        y = linear(x, weight.flatten(1), None if bias is None else bias.to(x.dtype))
        factor = self.tensors.get(f"{name}.factor")
        # The factor of attn.proj multiplies the same vector as its branch's: `gate` takes both at [B, D].
        return y if factor is None or name.endswith("attn.proj") else scaled(y, factor.to(y.dtype))

    def modulation(self, norm: str, shift: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        weight, bias = self.tensors.get(f"{norm}.weight"), self.tensors.get(f"{norm}.bias")
        if weight is None or bias is None:
            return shift, scale
        # (LN(x)*w + b)*scale + shift  =  LN(x)*[scale*w] + [scale*b + shift]
        return shift + scale * bias.to(scale.dtype), scale * weight.to(scale.dtype)

    def gate(self, branch: str, gate: Tensor) -> Tensor:
        for name in (f"{branch}.factor", f"{branch}.proj.factor"):
            factor = self.tensors.get(name)
            gate = gate if factor is None else gate * factor.to(gate.dtype)
        return gate

    def classes(self, table: Tensor, y: Tensor) -> Tensor:
        return F.embedding(y, self.tensors.get(CLASS_TABLE, table))
