"""Plain PyTorch DiT, the reference for full fine-tuning if diffusers is missing.

It computes what diffusers' transformer computes, in as many matrix products (query, key and value separately), from the
tensors of the project's DiT.
"""

from types import SimpleNamespace

import torch.nn.functional as F
from torch import Tensor, nn

from core.ml.model.dit import DiT, patchify, timestep_features, unpatchify


class PlainDiT(nn.Module):
    """Transformer that trains fp32 copies of all tensors of `dit`. Its arguments and its result are named as in
    diffusers."""

    def __init__(self, dit: DiT) -> None:
        super().__init__()
        self.config, self.convention = dit.config, dit.t_embedder.convention
        self.register_buffer("positions", dit.positions.float())
        self.positions: Tensor
        self.tensors = nn.ParameterDict({
            name.replace(".", "_"): nn.Parameter(tensor.detach().float().clone())
            for name, tensor in dit.named_parameters()
        })  # fmt: skip

    def forward(self, x: Tensor, timestep: Tensor, class_labels: Tensor) -> SimpleNamespace:
        """Returns `sample` [B, 2C, H, W] for x [B, C, H, W], timestep [B] and class_labels [B]."""
        patches = patchify(x, self.config.patch_size)
        weight = self.tensors["x_embedder_proj_weight"].flatten(1)
        x = F.linear(patches, weight, self.tensors["x_embedder_proj_bias"]) + self.positions
        features = timestep_features(timestep, self.convention)
        c = self._linear("t_embedder_mlp_2", F.silu(self._linear("t_embedder_mlp_0", features)))
        c = F.silu(c + F.embedding(class_labels, self.tensors["y_embedder_embedding_table_weight"]))
        for index in range(self.config.depth):
            x = self._block(f"blocks_{index}", x, c)
        shift, scale = self._linear("final_layer_adaLN_modulation_1", c).unsqueeze(1).chunk(2, dim=-1)
        x = self._norm(x, self.config.norm_eps) * (1 + scale) + shift
        return SimpleNamespace(sample=unpatchify(self._linear("final_layer_linear", x), self.config))

    def _block(self, name: str, x: Tensor, c: Tensor) -> Tensor:
        parts = self._linear(f"{name}_adaLN_modulation_1", c).unsqueeze(1).chunk(6, dim=-1)
        shift1, scale1, gate1, shift2, scale2, gate2 = parts
        x = x + gate1 * self._attention(f"{name}_attn", self._norm(x, self.config.norm_eps) * (1 + scale1) + shift1)
        hidden = self._norm(x, self.config.mlp_norm_eps) * (1 + scale2) + shift2
        hidden = F.gelu(self._linear(f"{name}_mlp_fc1", hidden), approximate="tanh")
        return x + gate2 * self._linear(f"{name}_mlp_fc2", hidden)

    def _attention(self, name: str, x: Tensor) -> Tensor:
        weights, biases = (self.tensors[f"{name}_qkv_{part}"].chunk(3) for part in ("weight", "bias"))
        parts = [F.linear(x, weight, bias) for weight, bias in zip(weights, biases, strict=True)]
        q, k, v = (part.unflatten(-1, (self.config.num_heads, -1)).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self._linear(f"{name}_proj", mixed.transpose(1, 2).flatten(2))

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.tensors[f"{name}_weight"], self.tensors[f"{name}_bias"])

    def _norm(self, x: Tensor, eps: float) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], eps=eps)
