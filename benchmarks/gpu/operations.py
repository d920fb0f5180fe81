"""Floating-point operations, counted from a base's shape."""

from core.artifact.base import BaseConfig
from core.artifact.sites import METHODS, Method


def forward_operations(config: BaseConfig) -> float:
    """Operations of one row: matrix products over the tokens, attention, and the modulation's own product."""
    d, tokens = config.hidden_size, config.tokens
    return config.depth * (24 * tokens * d**2 + 4 * tokens**2 * d + 12 * d**2)


def training_operations(config: BaseConfig, method: Method) -> float:
    """Operations of one image's step. A frozen layer needs its output and its input's gradient, not its weight's; what
    LoRA adds is below a hundredth."""
    return forward_operations(config) * (2 if method in METHODS or method == "lora" else 3)


def layer_products(config: BaseConfig) -> dict[str, tuple[int, int]]:
    """A block's matrix products over its tokens: name -> (inputs, outputs)."""
    d = config.hidden_size
    return {"qkv": (d, 3 * d), "proj": (d, d), "fc1": (d, config.mlp_size), "fc2": (config.mlp_size, d)}
