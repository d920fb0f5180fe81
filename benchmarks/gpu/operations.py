"""Counts floating-point operations from the shape of a base."""

from core.artifact.base import BaseConfig
from core.artifact.sites import METHODS, Method


def forward_operations(config: BaseConfig) -> float:
    """Returns the floating-point operations of a forward of one batch row: matrix products over the tokens, attention,
    and the product that computes the modulation."""
    d, tokens = config.hidden_size, config.tokens
    return config.depth * (24 * tokens * d**2 + 4 * tokens**2 * d + 12 * d**2)


def training_operations(config: BaseConfig, method: Method) -> float:
    """Returns the floating-point operations of a training step per image. A frozen layer computes its output and its
    input's gradient, but not its weight's gradient. LoRA's additional operations, less than a hundredth, are left
    out."""
    return forward_operations(config) * (2 if method in METHODS or method == "lora" else 3)


def layer_products(config: BaseConfig) -> dict[str, tuple[int, int]]:
    """Returns the matrix products of a block over its tokens: name -> (inputs, outputs)."""
    d = config.hidden_size
    return {"qkv": (d, 3 * d), "proj": (d, d), "fc1": (d, config.mlp_size), "fc2": (config.mlp_size, d)}
