"""An adapter folded into vectors, and the forward that takes one row of vectors an image.

Everything that DiffFit trains is linear in the channels, so it moves into scales and shifts around the base's matrix
products, which then run once for all images of a batch, whatever their adapters:

- An affine norm and adaLN's bias and factors combine with adaLN's own product into one scale and shift per channel.
- Softmax ignores what is constant over the keys: the key's bias drops out and its factor moves onto the query. The
  value's factor and bias move behind the attention, whose weights sum to 1; the bias goes through the projection
  once, when the adapter is folded.
- The factors of a branch and of its projection multiply the branch's gate.

Letters in shapes: B images, N tokens, D hidden size, P vector length of an adapter.
"""

from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.artifact.base import BaseConfig
from core.model.dit import Block, DiT, linear_in, patchify, timestep_features, unpatchify
from core.model.functions import batch_invariant_linear, gelu


class VectorLayout:
    """Where each vector of an adapter stands in its row of P numbers."""

    @classmethod
    @lru_cache
    def of(cls, config: BaseConfig) -> Self:
        """The layout of a base, made once."""
        return cls(config)

    def __init__(self, config: BaseConfig) -> None:
        d = config.hidden_size
        self.sizes: dict[str, int] = {
            "patch.scale": d,
            "patch.shift": d,
            "time.bias": d,
            "time.scale": d,
            "time.shift": d,
        }
        for i in range(config.depth):
            self.sizes |= {
                f"blocks.{i}.modulation.scale": 6 * d,
                f"blocks.{i}.modulation.shift": 6 * d,
                f"blocks.{i}.norm1.bias": d,
                f"blocks.{i}.norm2.bias": d,
                f"blocks.{i}.query.scale": d,
                f"blocks.{i}.query.shift": d,
                f"blocks.{i}.value.scale": d,
                f"blocks.{i}.proj.bias": d,
                f"blocks.{i}.fc1.bias": config.mlp_size,
                f"blocks.{i}.fc2.bias": d,
            }
        self.sizes |= {
            "final.modulation.scale": 2 * d,
            "final.modulation.shift": 2 * d,
            "final.norm.bias": d,
            "final.scale": config.output_values,
            "final.shift": config.output_values,
        }

    @cached_property
    def length(self) -> int:
        return sum(self.sizes.values())

    def split(self, vectors: Tensor) -> dict[str, Tensor]:
        """[B, P] -> views [B, size] by name."""
        return dict(zip(self.sizes, vectors.split(list(self.sizes.values()), dim=1), strict=True))


@torch.no_grad()
def fold(dit: DiT, tensors: Mapping[str, Tensor]) -> Tensor:
    """The vectors [P] of an adapter, in fp32 on the base's device; of the base itself when `tensors` is empty.

    The class table is not among them: its rows are looked up when a request is admitted.
    """
    folder = _Folder(dit, tensors)
    vectors = folder.vectors()
    sizes = VectorLayout.of(dit.config).sizes
    return torch.cat([vectors[name].expand(size) for name, size in sizes.items()])


def folded_forward(dit: DiT, x: Tensor, t: Tensor, classes: Tensor, vectors: Tensor) -> Tensor:
    """x [B, C, H, W], t [B], classes [B, D] class embeddings, vectors [B, P] -> [B, 2C, H, W].

    Equals `dit(x, t, y, adapter)` row by row up to rounding.
    """
    config, positions = dit.config, dit.positions_for(x.shape[-1])
    row = VectorLayout.of(config).split(vectors)
    patches = F.linear(patchify(x.to(positions.dtype), config.patch_size), dit.x_embedder.proj.weight.flatten(1))
    x = torch.addcmul(_wide(row["patch.shift"]) + positions, patches, _wide(row["patch.scale"]))
    c = F.silu(_time(dit, t, row) + classes.to(positions.dtype))  # [B, D]
    for i, block in enumerate(dit.blocks):
        x = _block(cast(Block, block), x, c, {name: row[f"blocks.{i}.{name}"] for name in _BLOCK_VECTORS})
    layer = linear_in(dit.final_layer.adaLN_modulation, 1)
    scale, shift = row["final.modulation.scale"], row["final.modulation.shift"]
    shift, scale = _modulation(layer, c, scale, shift, row["final.norm.bias"])
    x = torch.addcmul(shift, _norm(x, config.norm_eps), scale)
    y = F.linear(x, dit.final_layer.linear.weight)
    return unpatchify(torch.addcmul(_wide(row["final.shift"]), y, _wide(row["final.scale"])), config)


_BLOCK_VECTORS = (
    "modulation.scale",
    "modulation.shift",
    "norm1.bias",
    "norm2.bias",
    "query.scale",
    "query.shift",
    "value.scale",
    "proj.bias",
    "fc1.bias",
    "fc2.bias",
)


def _time(dit: DiT, t: Tensor, row: dict[str, Tensor]) -> Tensor:
    first, second = linear_in(dit.t_embedder.mlp, 0), linear_in(dit.t_embedder.mlp, 2)
    features = timestep_features(t, dit.t_embedder.convention).to(first.weight.dtype)
    hidden = F.silu(batch_invariant_linear(features, first.weight) + row["time.bias"])
    return torch.addcmul(row["time.shift"], batch_invariant_linear(hidden, second.weight), row["time.scale"])


def _block(block: Block, x: Tensor, c: Tensor, row: dict[str, Tensor]) -> Tensor:
    """Writes into x, which is `folded_forward`'s own: a pass over memory that is new costs twice one over old."""
    layer, scale, shift = linear_in(block.adaLN_modulation, 1), row["modulation.scale"], row["modulation.shift"]
    parts = _modulation(layer, c, scale, shift, row["norm1.bias"], row["norm2.bias"])
    shift1, scale1, gate1, shift2, scale2, gate2 = parts
    attention = _attention(block, torch.addcmul(shift1, _norm(x, block.norm_eps), scale1), row)
    x = x.addcmul_(gate1, attention)
    hidden = torch.addcmul(shift2, _norm(x, block.mlp_norm_eps), scale2)
    hidden = gelu(_linear(hidden, block.mlp.fc1.weight, row["fc1.bias"]))
    return x.addcmul_(gate2, _linear(hidden, block.mlp.fc2.weight, row["fc2.bias"]))


def _attention(block: Block, x: Tensor, row: dict[str, Tensor]) -> Tensor:
    q, k, v = F.linear(x, block.attn.qkv.weight).chunk(3, dim=-1)  # each [B, N, D]
    torch.addcmul(_wide(row["query.shift"]), q, _wide(row["query.scale"]), out=q)
    q, k, v = (part.unflatten(-1, (block.attn.num_heads, -1)).transpose(1, 2) for part in (q, k, v))
    mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # [B, N, D]
    return _linear(mixed.mul_(_wide(row["value.scale"])), block.attn.proj.weight, row["proj.bias"])


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x [B, N, in] -> [B, N, out] with a bias [B, out] an image. A CPU's product with one bias for all is computed by
    adding it to copies of the bias, so that here a bias each costs nothing more."""
    if not x.is_cpu:
        return F.linear(x, weight).add_(_wide(bias))
    y = _wide(bias).repeat(1, x.shape[1], 1)
    y.flatten(0, 1).addmm_(x.flatten(0, 1), weight.t())
    return y


def _modulation(layer: nn.Linear, c: Tensor, scale: Tensor, shift: Tensor, *norm_biases: Tensor) -> tuple[Tensor, ...]:
    """adaLN's parts, each [B, 1, D], from c [B, D] and an image's own scales and shifts [B, parts*D]. Every third part
    from the first is the shift behind a norm: it takes the norm's bias [B, D] through the scale after it."""
    d = c.shape[1]
    products = batch_invariant_linear(c, layer.weight).unflatten(1, (-1, d))
    parts = torch.addcmul(shift.unflatten(1, (-1, d)), products, scale.unflatten(1, (-1, d)))
    for index, bias in enumerate(norm_biases):
        parts[:, 3 * index].addcmul_(products[:, 3 * index + 1], bias)
    return cast(tuple[Tensor, ...], parts.split(1, dim=1))


def _norm(x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=eps)


def _wide(vector: Tensor) -> Tensor:
    """[B, D] -> [B, 1, D]"""
    return vector.unsqueeze(1)


class _Folder:
    """Reads an adapter's tensors, or the base's where it has none, and combines them in fp32."""

    def __init__(self, dit: DiT, tensors: Mapping[str, Tensor]) -> None:
        self.dit, self.tensors = dit, tensors
        self.base = dict(dit.named_parameters())
        self.dtype = torch.float64 if dit.positions.dtype == torch.float64 else torch.float32
        self.one = torch.ones(1, dtype=self.dtype, device=dit.positions.device)

    def vectors(self) -> dict[str, Tensor]:
        patch, time = self.factor("x_embedder.proj"), self.factor("t_embedder.mlp.2")
        final = self.factor("final_layer.linear")
        vectors = {
            "patch.scale": patch,
            "patch.shift": patch * self.bias("x_embedder.proj"),
            "time.bias": self.bias("t_embedder.mlp.0"),
            "time.scale": time,
            "time.shift": time * self.bias("t_embedder.mlp.2"),
            "final.scale": final,
            "final.shift": final * self.bias("final_layer.linear"),
        }
        for i in range(self.dit.config.depth):
            vectors |= {f"blocks.{i}.{name}": vector for name, vector in self.block(f"blocks.{i}").items()}
        shift, scale = self.bias("final_layer.adaLN_modulation.1").chunk(2)
        bias, shift, scale = self.norm("final_layer.norm_final", shift, scale)
        weight = self.get("final_layer.norm_final.weight", self.one)
        d = self.dit.config.hidden_size
        return vectors | {
            "final.modulation.scale": torch.cat([self.one.expand(d), weight.expand(d)]),
            "final.modulation.shift": torch.cat([shift, scale]),
            "final.norm.bias": bias,
        }

    def block(self, name: str) -> dict[str, Tensor]:
        d = self.dit.config.hidden_size
        shift1, scale1, gate1, shift2, scale2, gate2 = self.bias(f"{name}.adaLN_modulation.1").chunk(6)
        bias1, shift1, scale1 = self.norm(f"{name}.norm1", shift1, scale1)
        bias2, shift2, scale2 = self.norm(f"{name}.norm2", shift2, scale2)
        attention = self.factor(f"{name}.attn") * self.factor(f"{name}.attn.proj")
        mlp = self.factor(f"{name}.mlp")
        weight1, weight2 = self.get(f"{name}.norm1.weight", self.one), self.get(f"{name}.norm2.weight", self.one)
        scales = (self.one, weight1, attention, self.one, weight2, mlp)
        q, k, v = self.factor(f"{name}.attn.qkv").expand(3 * d).chunk(3)
        bias_q, _, bias_v = self.bias(f"{name}.attn.qkv").chunk(3)
        projection = self.base[f"{name}.attn.proj.weight"].to(self.dtype)
        return {
            "modulation.scale": torch.cat([scale.expand(d) for scale in scales]),
            "modulation.shift": torch.cat([shift1, scale1, gate1 * attention, shift2, scale2, gate2 * mlp]),
            "norm1.bias": bias1,
            "norm2.bias": bias2,
            "query.scale": k * q,
            "query.shift": k * q * bias_q,
            "value.scale": v,
            "proj.bias": projection @ (v * bias_v) + self.bias(f"{name}.attn.proj"),
            "fc1.bias": self.bias(f"{name}.mlp.fc1"),
            "fc2.bias": self.bias(f"{name}.mlp.fc2"),
        }

    def norm(self, name: str, shift: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The norm's bias, and the constant parts of its shift and its scale:
        (LN*w + b)*(1 + s + W_s c) + h + W_h c, where s and h are adaLN's biases and W c its products."""
        weight, bias = self.get(f"{name}.weight", self.one), self.get(f"{name}.bias", 0 * self.one)
        return bias, shift + (1 + scale) * bias, (1 + scale) * weight

    def factor(self, name: str) -> Tensor:
        return self.get(f"{name}.factor", self.one)

    def bias(self, name: str) -> Tensor:
        return self.get(f"{name}.bias", self.base[f"{name}.bias"])

    def get(self, name: str, default: Tensor) -> Tensor:
        return self.tensors.get(name, default).to(self.dtype)
