"""Interface of an adapter: the changes to the base's forward pass for which `core.ml.model.dit` calls the adapter.

Letters in shapes: B images, N tokens, D hidden size.
"""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from core.artifact.sites import CLASS_TABLE
from core.ml.model.functions import linear, scaled


class Adapter:
    """Adapter that changes nothing: the base itself. A fine-tuning method overrides the methods for the parts that it
    changes."""

    def linear(self, name: str, x: Tensor, layer: nn.Linear | nn.Conv2d) -> Tensor:
        """Returns the output [..., out] of the linear layer `name` for x [..., in]. `layer` may also be the patch
        embedding's convolution; x then contains flattened patches."""
        return linear(x, layer.weight.flatten(1), layer.bias)

    def modulation(self, norm: str, shift: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the shift and the scale, each [B, D], that follow the norm `norm`. The arguments are adaLN's shift,
        and 1 plus adaLN's scale."""
        return shift, scale

    def gate(self, branch: str, gate: Tensor) -> Tensor:
        """Returns the gate [B, D] that multiplies the output of the residual branch `branch` ("blocks.0.attn",
        "blocks.0.mlp"). The argument `gate` is adaLN's."""
        return gate

    def mlp(self, name: str, hidden: Tensor, x: Tensor) -> Tensor:
        """Returns the output [B, N, D] of the MLP `name` ("blocks.0.mlp"), before the gate. `hidden` [B, N, D] is the
        output of its two layers, and x [B, N, D] the residual stream before the MLP's norm."""
        return hidden

    def tokens(self, name: str, x: Tensor) -> Tensor:
        """Returns the tokens [B, N, D] that enter `name` ("blocks.0", ... or "final_layer"). An adapter may add tokens
        to a block's, but "final_layer" must get only the image's tokens."""
        return x

    def classes(self, table: Tensor, y: Tensor) -> Tensor:
        """Returns the class embeddings [B, D] of class labels y [B]. `table` [classes + 1, D] is the base's class
        table."""
        return F.embedding(y, table)


BASE = Adapter()


class TensorAdapter(Adapter):
    """An adapter made of named tensors, for DiffFit, BitFit and full fine-tuning (see `core.artifact.sites`): a weight
    or bias replaces the base's, a factor multiplies a layer's output after the bias, an affine norm is merged into the
    modulation that follows it. Parts of the base for which there is no tensor stay unchanged.

    Tensors are cast to the dtype of the activations; their gradients have the tensors' own dtype.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors

    def linear(self, name: str, x: Tensor, layer: nn.Linear | nn.Conv2d) -> Tensor:
        weight = self.tensors.get(f"{name}.weight", layer.weight).to(x.dtype)
        bias = self.tensors.get(f"{name}.bias", layer.bias)
        y = linear(x, weight.flatten(1), None if bias is None else bias.to(x.dtype))
        factor = self.tensors.get(f"{name}.factor")
        # The factors of attn.proj and of the attention branch scale the same output: `gate` applies both, at [B, D].
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
