"""Fused operations, on a GPU and on a CPU: of the transformer with separate vectors per image, forward and backward,
and of the decoder, forward."""

from core.ml.model.kernels.operations import (
    Fp8Weight,
    add,
    attention,
    fp8_product,
    frozen_linear,
    gelu,
    group_norm_silu,
    has_triton_kernels,
    interleave,
    linear_gated_norm,
    linear_gelu,
    modulated_norm,
    quantized,
)

__all__ = [
    "Fp8Weight",
    "add",
    "attention",
    "fp8_product",
    "frozen_linear",
    "gelu",
    "group_norm_silu",
    "has_triton_kernels",
    "interleave",
    "linear_gated_norm",
    "linear_gelu",
    "modulated_norm",
    "quantized",
]
