"""Folds an adapter into vectors, and computes the forward pass with one row of vectors per image, for serving and
training.

All parameters that DiffFit trains act linearly on channels, so they move into scales and shifts around the base's
matrix products, which then run once for all images of a batch, whatever their adapters:

- An affine norm and adaLN's bias and factors combine with adaLN's own product into one scale and shift per channel.
- Softmax ignores terms that are constant over the keys, so the key's bias drops out; the key's factor moves onto the
  query. The value's factor and bias move behind the attention, whose weights sum to 1.
- The factors of a branch and of its output projection multiply the branch's gate.

Every step of the folding is element-wise, so that gradients of the vectors become gradients of the adapter's tensors at
almost no cost.

Letters in shapes: B images, N tokens, D hidden size, L blocks, P vector length of an adapter.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from core.artifact.base import BaseConfig
from core.ml.model.dit import Block, DiT, linear_in, patchify, timestep_features, unpatchify
from core.ml.model.functions import batch_invariant_linear
from core.ml.model.kernels import (
    Fp8Weight,
    attention,
    frozen_linear,
    linear_gated_norm,
    linear_gelu,
    modulated_norm,
)
from core.ml.model.kernels.plain import wide

Norm = tuple[Tensor, Tensor, float]
"""Shift and scale [B, D] that follow a LayerNorm, and the norm's epsilon"""


class VectorLayout:
    """Layout of an adapter's vectors within one vector of P values. Vectors of the same kind are adjacent over all
    blocks."""

    def __init__(self, config: BaseConfig) -> None:
        d = config.hidden_size
        self.single: dict[str, int] = {
            "patch.scale": d,
            "patch.shift": d,
            "time.bias": d,
            "time.scale": d,
            "time.shift": d,
            "final.modulation.scale": 2 * d,
            "final.modulation.shift": 2 * d,
            "final.norm.bias": d,
            "final.scale": config.output_values,
            "final.shift": config.output_values,
        }
        """Sizes of the vectors that exist once, outside of the blocks."""
        self.depth = config.depth
        self.blocks: dict[str, int] = {
            "modulation.scale": 6 * d,
            "modulation.shift": 6 * d,
            "norm1.bias": d,
            "norm2.bias": d,
            "query.scale": d,
            "query.shift": d,
            "value.scale": d,
            "value.shift": d,
            "proj.bias": d,
            "fc1.bias": config.mlp_size,
            "fc2.bias": d,
        }
        """Sizes of the vectors that each block has."""

    @property
    def length(self) -> int:
        return sum(self.single.values()) + self.depth * sum(self.blocks.values())

    def split(self, vectors: Tensor) -> dict[str, Tensor]:
        """Splits [B, P] into views by name: [B, size], and [B, L, size] for vectors of the blocks."""
        sizes = [*self.single.values(), *(self.depth * size for size in self.blocks.values())]
        parts = dict(zip([*self.single, *self.blocks], vectors.split(sizes, dim=1), strict=True))
        return parts | {name: parts[name].unflatten(1, (self.depth, size)) for name, size in self.blocks.items()}


def fold(dit: DiT, tensors: Mapping[str, Tensor]) -> Tensor:
    """Returns the vectors [P] of an adapter, in fp32 on the base's device. Empty `tensors` give the vectors of the base
    itself.

    Differentiable: gradients reach `tensors`. The class table is not folded; `folded_forward` takes class embeddings.
    """
    vectors, layout = _Folder(dit, tensors).vectors(), VectorLayout(dit.config)
    single = [vectors[name].expand(size) for name, size in layout.single.items()]
    return torch.cat([*single, *(vectors[name].flatten() for name in layout.blocks)])


def fp8_weights(dit: DiT) -> dict[Tensor, Fp8Weight]:
    """Returns the weights of the blocks' four matrix products in fp8, by the weights that they replace."""
    weights = [weight for block in _blocks(dit) for weight in _weights(block)]
    return {weight: Fp8Weight.of(weight.detach()) for weight in weights}


def folded_forward(
    dit: DiT,
    x: Tensor,
    t: Tensor,
    classes: Tensor,
    vectors: Tensor,
    fp8: Mapping[Tensor, Fp8Weight] = MappingProxyType({}),
) -> Tensor:
    """Computes the model's output [B, 2C, H, W] with an adapter per image: x [B, C, H, W], t [B], classes [B, D] class
    embeddings, vectors [B, P] the folded adapters.

    Each image's output equals that of `dit(x, t, y, adapter)` with its adapter, up to rounding; so do the gradients of
    classes and vectors. With the weights that `fp8_weights` returns it computes the blocks' products in fp8, without
    gradients; an output still depends on its own image only.
    """
    config, positions, layout = dit.config, dit.positions_for(x.shape[-1]), VectorLayout(dit.config)
    row = layout.split(vectors)
    patches = F.linear(patchify(x.to(positions.dtype), config.patch_size), dit.x_embedder.proj.weight.flatten(1))
    x = torch.addcmul(wide(row["patch.shift"], patches) + positions, patches, wide(row["patch.scale"], patches))
    c = F.silu(_time(dit, t, row) + classes.to(positions.dtype))  # [B, D]
    norms, gates = _modulation(dit, c, row)
    normal = modulated_norm(x, *next(norms))  # [B, N, D]
    blocks = [
        dict(zip(layout.blocks, one, strict=True))
        for one in zip(*(row[n].unbind(1) for n in layout.blocks), strict=True)
    ]
    for block, own in zip(_blocks(dit), blocks, strict=True):
        to_qkv, to_proj, to_fc1, to_fc2 = (fp8.get(weight, weight) for weight in _weights(block))
        affine = (own["query.scale"], own["query.shift"], own["value.scale"], own["value.shift"])
        # Nested calls, since a variable would keep a branch's output in memory during the next branch.
        x, normal = linear_gated_norm(
            attention(frozen_linear(normal, to_qkv), *affine, block.attn.num_heads),
            *(to_proj, own["proj.bias"], next(gates), x, *next(norms)),
            save_input=True,
        )
        x, normal = linear_gated_norm(
            linear_gelu(normal, to_fc1, own["fc1.bias"]),
            *(to_fc2, own["fc2.bias"], next(gates), x, *next(norms)),
        )
    y = F.linear(normal, dit.final_layer.linear.weight)
    return unpatchify(torch.addcmul(wide(row["final.shift"], y), y, wide(row["final.scale"], y)), config)


def _time(dit: DiT, t: Tensor, row: Mapping[str, Tensor]) -> Tensor:
    """Returns the embedding [B, D] of the timesteps."""
    first, second = linear_in(dit.t_embedder.mlp, 0), linear_in(dit.t_embedder.mlp, 2)
    features = timestep_features(t, dit.t_embedder.convention).to(first.weight.dtype)
    bias, scale, shift = (row[f"time.{name}"].to(features.dtype) for name in ("bias", "scale", "shift"))
    hidden = F.silu(batch_invariant_linear(features, first.weight) + bias)
    return torch.addcmul(shift, batch_invariant_linear(hidden, second.weight), scale)


def _modulation(dit: DiT, c: Tensor, row: Mapping[str, Tensor]) -> tuple[Iterator[Norm], Iterator[Tensor]]:
    """Returns two iterators, both in the order in which the forward pass uses the values: the shift, the scale (both
    [B, D]) and the epsilon of each norm, and the gate [B, D] of each branch.

    An affine norm's bias b is multiplied by adaLN's scale: (LN*w + b)*scale + shift has the shift scale*b + shift.
    """
    layers = [linear_in(block.adaLN_modulation, 1) for block in _blocks(dit)]
    products = torch.stack([batch_invariant_linear(c, layer.weight) for layer in layers], 1)  # [B, L, 6D]
    products = products.to(row["modulation.shift"].dtype)
    parts = torch.addcmul(row["modulation.shift"], products, row["modulation.scale"]).chunk(6, dim=-1)
    shift1, scale1, gate1, shift2, scale2, gate2 = parts  # each [B, L, D]
    _, product1, _, _, product2, _ = products.chunk(6, dim=-1)
    shift1 = torch.addcmul(shift1, product1, row["norm1.bias"])
    shift2 = torch.addcmul(shift2, product2, row["norm2.bias"])
    final = batch_invariant_linear(c, linear_in(dit.final_layer.adaLN_modulation, 1).weight).to(products.dtype)
    shift, scale = torch.addcmul(row["final.modulation.shift"], final, row["final.modulation.scale"]).chunk(2, dim=-1)
    shift = torch.addcmul(shift, final.chunk(2, dim=-1)[1], row["final.norm.bias"])
    config = dit.config
    norms: list[Norm] = []
    of_blocks = zip(*(part.unbind(1) for part in (shift1, scale1, shift2, scale2)), strict=True)
    for one_shift, one_scale, two_shift, two_scale in of_blocks:
        norms += [(one_shift, one_scale, config.norm_eps), (two_shift, two_scale, config.mlp_norm_eps)]
    gates = [gate for pair in zip(gate1.unbind(1), gate2.unbind(1), strict=True) for gate in pair]
    return iter([*norms, (shift, scale, config.norm_eps)]), iter(gates)


def _blocks(dit: DiT) -> list[Block]:
    return [cast(Block, block) for block in dit.blocks]


def _weights(block: Block) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns the weights of a block's products with all tokens, in the order in which the forward pass uses them."""
    return block.attn.qkv.weight, block.attn.proj.weight, block.mlp.fc1.weight, block.mlp.fc2.weight


class _Folder:
    """Combines an adapter's tensors, or the base's where the adapter has none, into vectors. Computes in fp32, or in
    fp64 for a base in fp64."""

    def __init__(self, dit: DiT, tensors: Mapping[str, Tensor]) -> None:
        self.config, self.tensors = dit.config, tensors
        self.base = dict(dit.named_parameters())
        self.dtype = torch.float64 if dit.positions.dtype == torch.float64 else torch.float32
        self.one = torch.ones(1, dtype=self.dtype, device=dit.positions.device)

    def vectors(self) -> dict[str, Tensor]:
        """Returns all vectors by name: [size] or [1] for vectors outside of the blocks, [L, size] for the blocks'
        vectors."""
        patch, time = self.factor("x_embedder.proj"), self.factor("t_embedder.mlp.2")
        final = self.factor("final_layer.linear")
        norm = "final_layer.norm_final"
        bias, weight = self.get(f"{norm}.bias", 0 * self.one), self.get(f"{norm}.weight", self.one)
        shift, scale = self.bias("final_layer.adaLN_modulation.1").chunk(2)
        return self.blocks() | {
            "patch.scale": patch,
            "patch.shift": patch * self.bias("x_embedder.proj"),
            "time.bias": self.bias("t_embedder.mlp.0"),
            "time.scale": time,
            "time.shift": time * self.bias("t_embedder.mlp.2"),
            "final.modulation.scale": torch.cat([torch.ones_like(shift), weight.expand_as(shift)]),
            "final.modulation.shift": torch.cat([shift + (1 + scale) * bias, (1 + scale) * weight]),
            "final.norm.bias": bias,
            "final.scale": final,
            "final.shift": final * self.bias("final_layer.linear"),
        }

    def blocks(self) -> dict[str, Tensor]:
        """Returns the blocks' vectors by name, [L, size] each. A norm with its modulation is (LN*w + b)*(1 + s + W_s c)
        + h + W_h c, where c is the condition, s and h are adaLN's biases, and W_s and W_h its weights. The vectors
        contain the terms without c."""
        d = self.config.hidden_size
        shift1, scale1, gate1, shift2, scale2, gate2 = self.biases("adaLN_modulation.1").chunk(6, dim=1)
        weight1, weight2 = self.stacked("norm1.weight", d), self.stacked("norm2.weight", d)
        bias1, bias2 = (self.stacked(f"{name}.bias", d, 0 * self.one) for name in ("norm1", "norm2"))
        attention, mlp = (
            self.stacked("attn.factor", d) * self.stacked("attn.proj.factor", d),
            self.stacked("mlp.factor", d),
        )
        q, k, v = self.stacked("attn.qkv.factor", 3 * d).chunk(3, dim=1)
        bias_q, _, bias_v = self.biases("attn.qkv").chunk(3, dim=1)
        ones = torch.ones_like(attention)
        parts = (
            shift1 + (1 + scale1) * bias1,
            (1 + scale1) * weight1,
            gate1 * attention,
            shift2 + (1 + scale2) * bias2,
            (1 + scale2) * weight2,
            gate2 * mlp,
        )
        return {
            "modulation.scale": torch.cat([ones, weight1, attention, ones, weight2, mlp], 1),
            "modulation.shift": torch.cat(parts, 1),
            "norm1.bias": bias1,
            "norm2.bias": bias2,
            "query.scale": k * q,
            "query.shift": k * q * bias_q,
            "value.scale": v,
            "value.shift": v * bias_v,
            "proj.bias": self.biases("attn.proj"),
            "fc1.bias": self.biases("mlp.fc1"),
            "fc2.bias": self.biases("mlp.fc2"),
        }

    def factor(self, name: str) -> Tensor:
        return self.get(f"{name}.factor", self.one)

    def bias(self, name: str) -> Tensor:
        return self.get(f"{name}.bias", self.base[f"{name}.bias"])

    def biases(self, name: str) -> Tensor:
        """Returns the bias of the layer `name` in each block, [L, size]."""
        return torch.stack([self.bias(f"blocks.{i}.{name}") for i in range(self.config.depth)])

    def stacked(self, name: str, size: int, default: Tensor | None = None) -> Tensor:
        """Returns the adapter's tensor `name` of each block, [L, size]; 1, or `default`, where the adapter has none."""
        missing = (self.one if default is None else default).expand(size)
        return torch.stack([self.get(f"blocks.{i}.{name}", missing) for i in range(self.config.depth)])

    def get(self, name: str, default: Tensor) -> Tensor:
        return self.tensors.get(name, default).to(self.dtype)
