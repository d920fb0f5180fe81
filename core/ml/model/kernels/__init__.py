"""Fused operations of the transformer with separate vectors per image: forward and backward, on a GPU and on a CPU."""

from core.ml.model.kernels.operations import attention, gelu, linear_gated_norm, linear_gelu, modulated_norm

__all__ = ["attention", "gelu", "linear_gated_norm", "linear_gelu", "modulated_norm"]
