"""The diffusion transformer (DiT, arXiv 2212.09748) with the adapter as an argument.

No module is ever patched: `dit(x, t, y, adapter)` calls the adapter at each part that an adapter may change, so that
training and serving, and many tenants, share the same frozen weights. Tensor names are those of the original DiT.

Letters in shapes: B images, N tokens, D hidden size, C latent channels, H and W latent height and width, p patch size.
"""

import math
from dataclasses import replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.artifact.base import BaseConfig, TimestepConvention
from core.artifact.sites import TIMESTEP_FEATURES
from core.ml.model.adapter import BASE, Adapter
from core.ml.model.functions import gated, heads
from core.ml.model.kernels import gelu, modulated_norm


class DiT(nn.Module):
    """A diffusion transformer of any size. Its parameters are frozen; only adapters are trained."""

    def __init__(self, config: BaseConfig) -> None:
        super().__init__()
        self.config = config
        d = config.hidden_size
        self.x_embedder = PatchEmbedder(config)
        self.t_embedder = TimestepEmbedder(d, config.timestep_convention)
        self.y_embedder = ClassEmbedder(config.num_classes, d)
        self.blocks = nn.ModuleList(Block(config, index) for index in range(config.depth))
        self.final_layer = FinalLayer(config)
        self.register_buffer("positions", position_table(config), persistent=False)  # [1, N, D]
        self.positions: Tensor
        self._stretched: dict[int, Tensor] = {}
        self.requires_grad_(False)

    def forward(self, x: Tensor, t: Tensor, y: Tensor, adapter: Adapter = BASE) -> Tensor:
        """Returns the output [B, 2C, H, W] for noisy latents x [B, C, H, W], timesteps t [B] in 0..999 and class labels
        y [B].

        H = W is the base's input size, or another multiple of the patch size (see `positions_for`). The first C output
        channels predict the noise, the others interpolate the variance (if the configuration learns the variance).
        Class labels index the adapter's class table if it has one, and the base's otherwise.
        """
        positions = self.positions_for(x.shape[-1])
        x = self.x_embedder(x.to(positions.dtype), adapter) + positions  # [B, N, D]
        c = self.t_embedder(t, adapter) + adapter.classes(self.y_embedder.embedding_table.weight, y)  # [B, D]
        c = F.silu(c.to(x.dtype))  # every use of c begins with the SiLU
        for index, block in enumerate(self.blocks):
            x = block(adapter.tokens(f"blocks.{index}", x), c, adapter)
        return unpatchify(self.final_layer(adapter.tokens("final_layer", x), c, adapter), self.config)

    def positions_for(self, size: int) -> Tensor:
        """Returns the positional encoding [1, N, D] for latents of `size` rows and columns. For other sizes than the
        base's, the base's grid is stretched: at twice the size (i, j) becomes (i/2, j/2), the positional encoding trick
        of arXiv 2304.06648."""
        if size == self.config.input_size:
            return self.positions
        if size not in self._stretched:
            scale = self.config.position_scale * self.config.input_size / size
            self._stretched[size] = position_table(replace(self.config, input_size=size, position_scale=scale))
        self._stretched[size] = self._stretched[size].to(self.positions)
        return self._stretched[size]


class PatchEmbedder(nn.Module):
    def __init__(self, config: BaseConfig) -> None:
        super().__init__()
        p = config.patch_size
        self.proj = nn.Conv2d(config.in_channels, config.hidden_size, kernel_size=p, stride=p)

    def forward(self, x: Tensor, adapter: Adapter) -> Tensor:
        """Embeds latents [B, C, H, W] as tokens [B, N, D]. The convolution with stride p is computed as one matrix
        product over patches."""
        return adapter.linear("x_embedder.proj", patchify(x, self.proj.kernel_size[0]), self.proj)


class TimestepEmbedder(nn.Module):
    def __init__(self, hidden_size: int, convention: TimestepConvention) -> None:
        super().__init__()
        self.convention = convention
        first, second = nn.Linear(TIMESTEP_FEATURES, hidden_size), nn.Linear(hidden_size, hidden_size)
        self.mlp = nn.Sequential(first, nn.SiLU(), second)

    def forward(self, t: Tensor, adapter: Adapter) -> Tensor:
        """Embeds timesteps [B] as vectors [B, D]."""
        first, second = linear_in(self.mlp, 0), linear_in(self.mlp, 2)
        features = timestep_features(t, self.convention).to(first.weight.dtype)  # [B, 256]
        hidden = F.silu(adapter.linear("t_embedder.mlp.0", features, first))
        return adapter.linear("t_embedder.mlp.2", hidden, second)


class ClassEmbedder(nn.Module):
    """The class table: one row per class, with the null class last."""

    def __init__(self, num_classes: int, hidden_size: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + 1, hidden_size)


class Block(nn.Module):
    """A transformer block with adaLN-Zero modulation."""

    def __init__(self, config: BaseConfig, index: int) -> None:
        super().__init__()
        d = config.hidden_size
        self.name = f"blocks.{index}"
        self.norm_eps, self.mlp_norm_eps = config.norm_eps, config.mlp_norm_eps
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(d, 6 * d))
        self.attn = Attention(d, config.num_heads, f"{self.name}.attn")
        self.mlp = Mlp(d, config.mlp_size, f"{self.name}.mlp")

    def forward(self, x: Tensor, c: Tensor, adapter: Adapter) -> Tensor:
        """Returns the tokens [B, N, D] after this block. x [B, N, D] are the tokens before it, c [B, D] is the sum of
        the timestep and class embeddings after SiLU."""
        layer = linear_in(self.adaLN_modulation, 1)
        modulation = adapter.linear(f"{self.name}.adaLN_modulation.1", c, layer)  # [B, 6D]
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.chunk(6, dim=-1)  # each [B, D]
        shift1, scale1 = adapter.modulation(f"{self.name}.norm1", shift1, 1 + scale1)
        shift2, scale2 = adapter.modulation(f"{self.name}.norm2", shift2, 1 + scale2)
        gate1 = adapter.gate(f"{self.name}.attn", gate1)
        gate2 = adapter.gate(f"{self.name}.mlp", gate2)
        x = gated(x, gate1, self.attn(modulated_norm(x, shift1, scale1, self.norm_eps), adapter))
        hidden: Tensor = self.mlp(modulated_norm(x, shift2, scale2, self.mlp_norm_eps), adapter)
        return gated(x, gate2, adapter.mlp(f"{self.name}.mlp", hidden, x))


class Attention(nn.Module):
    def __init__(self, hidden_size: int, num_heads: int, name: str) -> None:
        super().__init__()
        self.name = name
        self.num_heads = num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor, adapter: Adapter) -> Tensor:
        """Applies self-attention to normalized tokens: [B, N, D] -> [B, N, D]."""
        qkv = adapter.linear(f"{self.name}.qkv", x, self.qkv)  # [B, N, 3D]
        q, k, v = heads(qkv, self.num_heads)  # each [B, heads, N, D/heads]
        x = F.scaled_dot_product_attention(q, k, v)
        return adapter.linear(f"{self.name}.proj", x.transpose(1, 2).flatten(2), self.proj)


class Mlp(nn.Module):
    def __init__(self, hidden_size: int, mlp_size: int, name: str) -> None:
        super().__init__()
        self.name = name
        self.fc1 = nn.Linear(hidden_size, mlp_size)
        self.fc2 = nn.Linear(mlp_size, hidden_size)

    def forward(self, x: Tensor, adapter: Adapter) -> Tensor:
        """Applies the MLP to normalized tokens: [B, N, D] -> [B, N, D]."""
        hidden = gelu(adapter.linear(f"{self.name}.fc1", x, self.fc1))
        return adapter.linear(f"{self.name}.fc2", hidden, self.fc2)


class FinalLayer(nn.Module):
    def __init__(self, config: BaseConfig) -> None:
        super().__init__()
        d = config.hidden_size
        self.norm_eps = config.norm_eps
        self.linear = nn.Linear(d, config.output_values)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(d, 2 * d))

    def forward(self, x: Tensor, c: Tensor, adapter: Adapter) -> Tensor:
        """Computes the output patches [B, N, p*p*2C] from tokens x [B, N, D] and the condition c [B, D]."""
        modulation = adapter.linear("final_layer.adaLN_modulation.1", c, linear_in(self.adaLN_modulation, 1))  # [B, 2D]
        shift, scale = modulation.chunk(2, dim=-1)
        shift, scale = adapter.modulation("final_layer.norm_final", shift, 1 + scale)
        return adapter.linear("final_layer.linear", modulated_norm(x, shift, scale, self.norm_eps), self.linear)


def linear_in(layers: nn.Sequential, index: int) -> nn.Linear:
    """Returns the linear layer at `index` of a sequence of layers. The index is part of the original DiT's tensor
    names."""
    return cast(nn.Linear, layers[index])


def patchify(x: Tensor, patch_size: int) -> Tensor:
    """Splits latents [B, C, H, W] into patches [B, N, C*p*p]: tokens in raster order, the values of a patch in the
    order of a convolution's weight."""
    batch, channels, height, width = x.shape
    p = patch_size
    x = x.reshape(batch, channels, height // p, p, width // p, p).permute(0, 2, 4, 1, 3, 5)
    return x.reshape(batch, (height // p) * (width // p), channels * p * p)


def unpatchify(x: Tensor, config: BaseConfig) -> Tensor:
    """Joins output patches into latents: [B, N, p*p*2C] -> [B, 2C, H, W]."""
    p, side = config.patch_size, math.isqrt(x.shape[1])
    x = x.reshape(x.shape[0], side, side, p, p, config.out_channels).permute(0, 5, 1, 3, 2, 4)
    return x.reshape(x.shape[0], config.out_channels, side * p, side * p)


def timestep_features(t: Tensor, convention: TimestepConvention) -> Tensor:
    """Returns sinusoidal features [B, 256] of timesteps [B], in fp32: cosines, then sines, of t at geometric
    frequencies from 1 to 1/10,000."""
    half = TIMESTEP_FEATURES // 2
    span = half if convention == "dit" else half - 1
    steps = torch.arange(half, dtype=torch.float32, device=t.device)
    angles = t.float()[:, None] * torch.exp(-math.log(10000.0) * steps / span)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def position_table(config: BaseConfig) -> Tensor:
    """Returns the two-dimensional sine-cosine positional encoding [1, N, D], in fp32. The first half of the D features
    encodes the column, the second half the row."""
    side = config.input_size // config.patch_size
    coordinates = torch.arange(side, dtype=torch.float64) * config.position_scale
    frequencies = 10000.0 ** -(torch.arange(config.hidden_size // 4, dtype=torch.float64) / (config.hidden_size // 4))
    angles = coordinates[:, None] * frequencies  # [side, D/4]
    line = torch.cat([angles.sin(), angles.cos()], dim=1)  # [side, D/2]
    column = line[None, :, :].expand(side, side, -1)
    row = line[:, None, :].expand(side, side, -1)
    return torch.cat([column, row], dim=-1).reshape(1, side * side, config.hidden_size).float()


def initialize(dit: DiT, generator: torch.Generator) -> None:
    """Initializes weights for training from scratch, as the original DiT does: Xavier for linear layers, N(0, 0.02) for
    embedders, zeros for biases, adaLN and the final layer, so that every block begins as the identity."""
    for name, parameter in dit.named_parameters():
        if name.endswith("bias") or "adaLN_modulation" in name or name == "final_layer.linear.weight":
            nn.init.zeros_(parameter)
        elif name.startswith(("t_embedder", "y_embedder")):
            nn.init.normal_(parameter, std=0.02, generator=generator)
        else:
            nn.init.xavier_uniform_(parameter.view(parameter.shape[0], -1), generator=generator)
