"""Every method on a small model, and a plain forward to compare with."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from core.artifact.additions import AdaptFormer, Lora, Prompts
from core.artifact.sites import PRESETS, Method, MethodSites, Sites, trainable_shapes
from core.ml.model.dit import DiT, timestep_features
from core.ml.tuning.start import start_tensors

METHODS: dict[str, tuple[Method, MethodSites]] = {
    "difffit": ("difffit", PRESETS["paper"]),
    "bitfit": ("bitfit", Sites()),
    "full": ("full", Sites()),
    "lora": ("lora", Lora()),
    "lora r16 scaled": ("lora", Lora(rank=16, scale=0.5)),
    "lora on the stack": ("lora", Lora(rank=4, matrices="qkv")),
    "adaptformer parallel": ("adaptformer", AdaptFormer()),
    "adaptformer sequential": ("adaptformer", AdaptFormer(placement="sequential", bottleneck=7, scale=2.0)),
    "vpt": ("vpt", Prompts(blocks=3)),
    "vpt with three tokens": ("vpt", Prompts(blocks=1, tokens=3)),
}
ADDING = [name for name, (method, _) in METHODS.items() if method in ("lora", "adaptformer", "vpt")]


def start(dit: DiT, name: str, num_classes: int | None = None) -> dict[str, Tensor]:
    """Returns the tensors with which training begins. The class table is the base's when `num_classes` is not given."""
    method, sites = METHODS[name]
    shapes = trainable_shapes(dit.config, method, sites, num_classes or dit.config.num_classes)
    return start_tensors(dit, shapes, torch.Generator().manual_seed(1), keep_classes=num_classes is None)


def far(dit: DiT, name: str, num_classes: int = 3) -> dict[str, Tensor]:
    """Returns tensors far from where training begins, in the base's dtype."""
    generator = torch.Generator().manual_seed(2)
    return {
        name: (tensor + 0.3 * torch.randn(tensor.shape, generator=generator)).to(dit.positions.dtype)
        for name, tensor in start(dit, name, num_classes).items()
    }


Update = Callable[[int, Tensor, Tensor], Tensor]


def plain_forward(
    dit: DiT,
    weights: Mapping[str, Tensor],
    x: Tensor,
    t: Tensor,
    y: Tensor,
    *,
    mlp_update: Update | None = None,
    prompts: list[Tensor] | None = None,
) -> Tensor:
    """Computes DiT's forward from its paper's formulas; `weights` replace the base's tensors of the same names.

    `mlp_update(block, u, output)` is added to an MLP's output, with u the residual stream. `prompts` are the tokens in
    front of the image's tokens, for each of the first blocks.
    """
    state = {**dit.state_dict(), **weights}
    depth, heads, p = dit.config.depth, dit.config.num_heads, dit.config.patch_size

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, state[f"{name}.weight"].flatten(1), state[f"{name}.bias"])

    def norm(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None]

    x = linear("x_embedder.proj", F.unfold(x, p, stride=p).transpose(1, 2)) + dit.positions
    features = timestep_features(t, "dit").to(x.dtype)
    time = linear("t_embedder.mlp.2", F.silu(linear("t_embedder.mlp.0", features)))
    c = F.silu(time + state["y_embedder.embedding_table.weight"][y])
    image_tokens = x.shape[1]
    for i in range(depth):
        if prompts is not None and i < len(prompts):
            x = torch.cat([prompts[i].repeat(len(x), 1, 1), x[:, -image_tokens:]], dim=1)
        shift1, scale1, gate1, shift2, scale2, gate2 = linear(f"blocks.{i}.adaLN_modulation.1", c).chunk(6, dim=1)
        q, k, v = linear(f"blocks.{i}.attn.qkv", norm(x, shift1, scale1)).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v))
        mixed = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v
        x = x + gate1[:, None] * linear(f"blocks.{i}.attn.proj", mixed.transpose(1, 2).flatten(2))
        hidden = F.gelu(linear(f"blocks.{i}.mlp.fc1", norm(x, shift2, scale2)), approximate="tanh")
        output = linear(f"blocks.{i}.mlp.fc2", hidden)
        update = mlp_update(i, x, output) if mlp_update is not None else 0
        x = x + gate2[:, None] * (output + update)
    shift, scale = linear("final_layer.adaLN_modulation.1", c).chunk(2, dim=1)
    x = linear("final_layer.linear", norm(x, shift, scale))[:, -image_tokens:]
    values = x.unflatten(-1, (p * p, -1)).permute(0, 3, 2, 1).flatten(1, 2)  # [B, 2C*p*p, N] as fold wants it
    return F.fold(values, (dit.config.input_size,) * 2, p, stride=p)
