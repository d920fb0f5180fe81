"""Fused operations of the transformer with separate vectors per image: forward and backward, on a GPU and on a CPU."""

from core.ml.model.kernels.operations import (
    Fp8Weight,
    attention,
    fp8_product,
    frozen_linear,
    gelu,
    linear_gated_norm,
    linear_gelu,
    modulated_norm,
    quantized,
)

__all__ = [
    "Fp8Weight",
    "attention",
    "fp8_product",
    "frozen_linear",
    "gelu",
    "linear_gated_norm",
    "linear_gelu",
    "modulated_norm",
    "quantized",
]
