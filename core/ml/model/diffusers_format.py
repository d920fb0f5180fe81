"""Mapping between the tensor names of diffusers' `DiTTransformer2DModel` and those of the original DiT.

diffusers stores a copy of the timestep embedder and of the class embedder in every block. `from_diffusers` checks that
all copies are equal and keeps one; `to_diffusers` repeats it for every block.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from core.artifact.base import BaseConfig
from core.ml.errors import CheckpointInvalid

_EMBEDDERS = {
    "timestep_embedder.linear_1": "t_embedder.mlp.0",
    "timestep_embedder.linear_2": "t_embedder.mlp.2",
    "class_embedder.embedding_table": "y_embedder.embedding_table",
}
_OUTER = {
    "pos_embed.proj": "x_embedder.proj",
    "proj_out_1": "final_layer.adaLN_modulation.1",
    "proj_out_2": "final_layer.linear",
}
_BLOCK = {
    "norm1.linear": "adaLN_modulation.1",
    "attn1.to_out.0": "attn.proj",
    "ff.net.0.proj": "mlp.fc1",
    "ff.net.2": "mlp.fc2",
}
_FIXED = {
    "attention_bias": True,
    "activation_fn": "gelu-approximate",
    "norm_type": "ada_norm_zero",
    "norm_elementwise_affine": False,
}
_STACKED = ("attn1.to_q", "attn1.to_k", "attn1.to_v")


def config_from_diffusers(config: Mapping[str, Any]) -> BaseConfig:
    """Converts diffusers' configuration of public DiT weights to ours. The timestep features and norms are those that
    the weights were trained with, not those of diffusers' forward. Raises CheckpointInvalid for an unsupported DiT."""
    for name, value in _FIXED.items():
        if config.get(name, value) != value:
            raise CheckpointInvalid(f"A DiT with {name} = {config[name]!r} is not supported; it must be {value!r}.")
    in_channels = int(config["in_channels"])
    return BaseConfig(
        input_size=int(config["sample_size"]),
        patch_size=int(config["patch_size"]),
        in_channels=in_channels,
        hidden_size=int(config["num_attention_heads"]) * int(config["attention_head_dim"]),
        depth=int(config["num_layers"]),
        num_heads=int(config["num_attention_heads"]),
        num_classes=int(config["num_embeds_ada_norm"]),
        learn_sigma=int(config.get("out_channels") or in_channels) == 2 * in_channels,
    )


def config_to_diffusers(config: BaseConfig) -> dict[str, Any]:
    """Converts a configuration to diffusers' format. Raises ValueError for a configuration that diffusers' DiT class
    cannot express."""
    if (config.position_scale, config.mlp_ratio, config.norm_eps) != (1.0, 4.0, 1e-6):
        raise ValueError("diffusers' DiT has no position scale, an MLP ratio of 4 and a norm eps of 1e-6")
    return {
        "num_attention_heads": config.num_heads,
        "attention_head_dim": config.hidden_size // config.num_heads,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "num_layers": config.depth,
        "sample_size": config.input_size,
        "patch_size": config.patch_size,
        "num_embeds_ada_norm": config.num_classes,
        "norm_eps": config.mlp_norm_eps,
        **_FIXED,
    }


def from_diffusers(state: Mapping[str, Tensor], config: BaseConfig) -> dict[str, Tensor]:
    """Returns diffusers' tensors under the original DiT's names. Raises CheckpointInvalid if copies of an embedder
    differ or a block's query, key or value is missing; other missing tensors are reported when the tensors are
    loaded."""
    rest = dict(state)
    rest.pop("pos_embed.pos_embed", None)
    named = dict(_collapse(rest, config.depth))
    for i in range(config.depth):
        for kind in ("weight", "bias"):
            names = [f"transformer_blocks.{i}.{part}.{kind}" for part in _STACKED]
            if missing := [name for name in names if name not in rest]:
                raise CheckpointInvalid(f"Tensors are missing: {', '.join(missing)}.")
            named[f"blocks.{i}.attn.qkv.{kind}"] = torch.cat([rest.pop(name) for name in names])
    return named | {_rename(name): tensor for name, tensor in rest.items()}


def to_diffusers(state: Mapping[str, Tensor], config: BaseConfig) -> dict[str, Tensor]:
    """Returns the original DiT's tensors under diffusers' names, with the embedders repeated for every block."""
    renamed: dict[str, Tensor] = {}
    blocks = {ours: theirs for theirs, ours in _BLOCK.items()}
    outer = {ours: theirs for theirs, ours in _OUTER.items()}
    embedders = {ours: theirs for theirs, ours in _EMBEDDERS.items()}
    for name, tensor in state.items():
        module, _, kind = name.rpartition(".")
        if module in outer:
            renamed[f"{outer[module]}.{kind}"] = tensor
        elif module in embedders:
            for i in range(config.depth):
                renamed[f"transformer_blocks.{i}.norm1.emb.{embedders[module]}.{kind}"] = tensor
        else:
            _, index, part = module.split(".", 2)
            prefix = f"transformer_blocks.{index}"
            if part == "attn.qkv":
                for their_part, chunk in zip(_STACKED, tensor.chunk(3), strict=True):
                    renamed[f"{prefix}.{their_part}.{kind}"] = chunk.contiguous()
            else:
                renamed[f"{prefix}.{blocks[part]}.{kind}"] = tensor
    return renamed


def _collapse(rest: dict[str, Tensor], depth: int) -> Iterator[tuple[str, Tensor]]:
    """Removes all copies of the embedders from `rest`, checks that they are equal, and yields one copy of each under
    the original's name. Raises CheckpointInvalid."""
    for theirs, ours in _EMBEDDERS.items():
        for kind in ("weight",) if theirs.startswith("class") else ("weight", "bias"):
            names = [f"transformer_blocks.{i}.norm1.emb.{theirs}.{kind}" for i in range(depth)]
            if missing := [name for name in names if name not in rest]:
                raise CheckpointInvalid(f"Tensors are missing: {', '.join(missing[:10])}.")
            first, *copies = (rest.pop(name) for name in names)
            for name, copy in zip(names[1:], copies, strict=True):
                if not torch.equal(first, copy):
                    raise CheckpointInvalid(f"'{name}' differs from its copy in the first block; they must be one.")
            yield f"{ours}.{kind}", first


def _rename(name: str) -> str:
    module, _, kind = name.rpartition(".")
    if module in _OUTER:
        return f"{_OUTER[module]}.{kind}"
    if module.startswith("transformer_blocks."):
        _, index, part = module.split(".", 2)
        if part in _BLOCK:
            return f"blocks.{index}.{_BLOCK[part]}.{kind}"
    return name
