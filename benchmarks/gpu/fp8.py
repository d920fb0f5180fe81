"""Measures the matrix products of the frozen layers in fp8, with a scale per weight channel and a scale per token."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.device import milliseconds, relative_error
from benchmarks.gpu.lab import Lab
from benchmarks.gpu.operations import layer_products
from benchmarks.gpu.session import recorded

FP8 = torch.float8_e4m3fn
MAX = torch.finfo(FP8).max


@torch.inference_mode()
def measure(lab: Lab, result: dict[str, Any]) -> None:
    """Measures the four matrix products of a block at the main batch size in fp8 and in bf16, and the error of each
    relative to float64."""
    result["layers"] = []
    rows = lab.size.main_rows * lab.config.tokens
    for name, (inputs, outputs) in layer_products(lab.config).items():
        x = torch.randn(rows, inputs, device=lab.device, dtype=torch.bfloat16)
        weight = (torch.randn(outputs, inputs, device=lab.device) * inputs**-0.5).bfloat16()
        layer: dict[str, Any] = {"name": name}
        result["layers"].append(layer)
        with recorded(layer):
            layer |= _product(lab, x, weight)


def quantized(x: Tensor) -> tuple[Tensor, Tensor]:
    """Quantizes [M, K] to fp8, and returns the result [M, K] and the scale of each row [M, 1] in fp32."""
    scale = x.abs().amax(1, keepdim=True).float().clamp(min=1e-12) / MAX
    return (x / scale).to(FP8), scale


def product(x: Tensor, x_scale: Tensor, weight: Tensor, weight_scale: Tensor) -> Tensor:
    """Returns x [M, K] @ weight [N, K]^T as bf16 [M, N]. Both operands are fp8 with one scale per row. On a CPU the
    product is computed in fp32."""
    if not x.is_cuda:
        return ((x.float() @ weight.float().t()) * x_scale * weight_scale.t()).bfloat16()
    scales = {"scale_a": x_scale, "scale_b": weight_scale.t()}
    return torch._scaled_mm(x, weight.t(), **scales, out_dtype=torch.bfloat16, use_fast_accum=True)


def _product(lab: Lab, x: Tensor, weight: Tensor) -> dict[str, Any]:
    seconds, (small_x, x_scale), (small_weight, weight_scale) = lab.size.seconds, quantized(x), quantized(weight)
    reference = x[:256].double() @ weight.double().t()
    result = product(small_x, x_scale, small_weight, weight_scale)
    operations = 2 * x.shape[0] * weight.numel()
    bf16_ms = milliseconds(lambda: F.linear(x, weight), lab.device, seconds)
    fp8_ms = milliseconds(lambda: product(small_x, x_scale, small_weight, weight_scale), lab.device, seconds)
    return {
        "bf16_ms": bf16_ms,
        "fp8_ms": fp8_ms,
        "bf16_tflops": operations / bf16_ms / 1e9,
        "fp8_tflops": operations / fp8_ms / 1e9,
        "quantization_ms": milliseconds(lambda: quantized(x), lab.device, seconds),
        "bf16_relative_error": relative_error(F.linear(x, weight)[:256], reference),
        "fp8_relative_error": relative_error(result[:256], reference),
    }
