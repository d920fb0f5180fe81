"""Measures fp8 with a scale per weight channel and per token: the frozen layers' products, and a whole forward."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.device import graphed, milliseconds, relative_error
from benchmarks.gpu.lab import Lab
from benchmarks.gpu.operations import layer_products
from benchmarks.gpu.session import recorded
from core.ml.model.folding import folded_forward, fp8_weights
from core.ml.model.kernels import Fp8Weight, fp8_product, quantized


@torch.inference_mode()
def measure(lab: Lab, result: dict[str, Any]) -> None:
    """Measures a mixed forward and the four matrix products of a block at the main batch size, in fp8 and in bf16:
    time, and the error relative to the forward in fp32 and to the products in float64."""
    forward: dict[str, Any] = {"rows": lab.size.main_rows}
    result["forward"], result["layers"] = forward, []
    with recorded(forward):
        forward |= _forward(lab)
    rows = lab.size.main_rows * lab.config.tokens
    for name, (inputs, outputs) in layer_products(lab.config).items():
        x = torch.randn(rows, inputs, device=lab.device, dtype=torch.bfloat16)
        weight = (torch.randn(outputs, inputs, device=lab.device) * inputs**-0.5).bfloat16()
        layer: dict[str, Any] = {"name": name}
        result["layers"].append(layer)
        with recorded(layer):
            layer |= _product(lab, x, weight)


def _forward(lab: Lab) -> dict[str, Any]:
    x, t, y = lab.batch(lab.size.main_rows)
    classes, vectors = lab.classes(y), lab.table(len(x))
    lab.dit.positions_for(x.shape[-1])
    in_bf16: Callable[[], Tensor] = partial(folded_forward, lab.dit, x, t, classes, vectors)
    in_fp8: Callable[[], Tensor] = partial(folded_forward, lab.dit, x, t, classes, vectors, fp8_weights(lab.dit))
    in_fp32 = folded_forward(lab.dit_in(torch.float32), x[:8], t[:8], classes[:8], vectors[:8])
    return {
        "bf16_ms": milliseconds(graphed(in_bf16, lab.device), lab.device, lab.size.seconds),
        "fp8_ms": milliseconds(graphed(in_fp8, lab.device), lab.device, lab.size.seconds),
        "bf16_relative_error": relative_error(in_bf16()[:8], in_fp32),
        "fp8_relative_error": relative_error(in_fp8()[:8], in_fp32),
    }


def _product(lab: Lab, x: Tensor, weight: Tensor) -> dict[str, Any]:
    values, scales = quantized(x)
    small_weight = Fp8Weight.of(weight)
    reference = x[:256].double() @ weight.double().t()
    seconds, operations = lab.size.seconds, 2 * x.shape[0] * weight.numel()
    bf16_ms = milliseconds(lambda: F.linear(x, weight), lab.device, seconds)
    fp8_ms = milliseconds(lambda: fp8_product(values, scales, small_weight), lab.device, seconds)
    return {
        "bf16_ms": bf16_ms,
        "fp8_ms": fp8_ms,
        "bf16_tflops": operations / bf16_ms / 1e9,
        "fp8_tflops": operations / fp8_ms / 1e9,
        "quantization_ms": milliseconds(lambda: quantized(x), lab.device, seconds),
        "bf16_relative_error": relative_error(F.linear(x, weight)[:256], reference),
        "fp8_relative_error": relative_error(fp8_product(values, scales, small_weight)[:256], reference),
    }
