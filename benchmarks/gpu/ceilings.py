"""Measures upper limits of the device: the rates of matrix products and of a memory copy."""

from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.gpu.device import milliseconds
from benchmarks.gpu.lab import Lab
from benchmarks.gpu.operations import forward_operations, layer_products


@torch.inference_mode()
def measure(lab: Lab, result: dict[str, Any]) -> None:
    """Measures one large matrix product, the matrix products of a block at the main batch size, and a memory copy, all
    on random data, since products of zeros are faster."""
    n = lab.size.product
    result["product_tflops"] = _product(lab, n, n, n)["tflops"]
    rows = lab.size.main_rows
    shapes = layer_products(lab.config)
    result["layers"] = [
        {"name": name, **_product(lab, rows * lab.config.tokens, inputs, outputs)}
        for name, (inputs, outputs) in shapes.items()
    ]
    result["products_ms_a_forward"] = lab.config.depth * sum(layer["ms"] for layer in result["layers"])
    result["forward_ms_at_the_ceiling"] = rows * forward_operations(lab.config) / result["product_tflops"] / 1e9
    source = torch.randn(lab.size.copy_bytes // 4, device=lab.device)
    target = torch.empty_like(source)
    ms = milliseconds(lambda: target.copy_(source), lab.device, lab.size.seconds)
    result["copy_gigabytes_a_second"] = 2 * source.nbytes / ms / 1e6


def _product(lab: Lab, m: int, k: int, n: int) -> dict[str, Any]:
    x = torch.randn(m, k, device=lab.device, dtype=lab.dtype)
    weight = torch.randn(n, k, device=lab.device, dtype=lab.dtype)
    ms = milliseconds(lambda: F.linear(x, weight), lab.device, lab.size.seconds)
    return {"m": m, "k": k, "n": n, "ms": ms, "tflops": 2 * m * k * n / ms / 1e9}
