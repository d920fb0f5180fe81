"""Measures upper limits of the device: the rates of matrix products and of a memory copy."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.device import median, milliseconds
from benchmarks.gpu.lab import Lab
from benchmarks.gpu.operations import forward_operations, layer_products

PRODUCTS_AT_ONCE = 16
"""Number of large products that are timed together, so that they take about as long as a forward."""
TURNS = 3


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


@torch.inference_mode()
def in_turn_with_product(lab: Lab, action: Callable[[], Any]) -> dict[str, float]:
    """Measures `action` and the large matrix product in turn, each for the same time, and returns the median times in
    milliseconds. Under load a device lowers its clocks, so that the product is slower than in a short measurement."""
    n = lab.size.product
    x, weight = _operands(lab, n, n, n)
    sides = {"product_ms": lambda: [F.linear(x, weight) for _ in range(PRODUCTS_AT_ONCE)], "ms": action}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(TURNS):
        for name, side in sides.items():
            times[name].append(milliseconds(side, lab.device, lab.size.seconds))
    medians = {name: median(values) for name, values in times.items()}
    medians["product_ms"] /= PRODUCTS_AT_ONCE
    return medians | {"product_tflops": 2 * n**3 / medians["product_ms"] / 1e9}


def _operands(lab: Lab, m: int, k: int, n: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(m, k, device=lab.device, dtype=lab.dtype)
    return x, torch.randn(n, k, device=lab.device, dtype=lab.dtype)


def _product(lab: Lab, m: int, k: int, n: int) -> dict[str, Any]:
    x, weight = _operands(lab, m, k, n)
    ms = milliseconds(lambda: F.linear(x, weight), lab.device, lab.size.seconds)
    return {"m": m, "k": k, "n": n, "ms": ms, "tflops": 2 * m * k * n / ms / 1e9}
