"""Measures the fused operations, forward and backward, each next to its equivalent in plain PyTorch, on tensors of the
main batch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.device import milliseconds, relative_error
from benchmarks.gpu.lab import Lab
from benchmarks.gpu.session import recorded
from core.ml.model.kernels import plain

EPS = 1e-6
COMPARED_IMAGES = 2
"""Number of images in the comparison with float64."""
Operands = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """Operation to measure. `run` calls it in a given module: the one with fused kernels, or the one with their plain
    equivalents."""

    name: str
    run: Callable[[Any, Operands], Any]
    passes: tuple[str, ...]
    """Operands that have the sizes of the tensors that the operation reads or writes once; their bytes are the bytes it
    has to move."""


def measure(lab: Lab, result: dict[str, Any]) -> None:
    """Measures the time of each operation, its bandwidth over the bytes that it has to move, and its error relative to
    float64."""
    kernels = import_module("core.ml.model.kernels.triton_kernels") if lab.device.type == "cuda" else plain
    operands = _operands(lab, lab.size.main_rows)
    compared = {name: tensor[:COMPARED_IMAGES] for name, tensor in operands.items()}
    exact = {name: tensor.double() for name, tensor in compared.items()}
    result["operations"] = []
    with torch.inference_mode():
        for case in cases():
            operation: dict[str, Any] = {"name": case.name}
            result["operations"].append(operation)
            with recorded(operation):
                operation |= _times(lab, case, kernels, operands)
                pairs = zip(_tensors(case.run(kernels, compared)), _tensors(case.run(plain, exact)), strict=True)
                operation["relative_error"] = max(relative_error(*pair) for pair in pairs)


def _times(lab: Lab, case: Case, kernels: Any, operands: Operands) -> dict[str, float | None]:
    ms, twin = (
        milliseconds(partial(case.run, module, operands), lab.device, lab.size.seconds) for module in (kernels, plain)
    )
    rate = sum(operands[name].nbytes for name in case.passes) / ms / 1e6
    copy = lab.results.get("ceilings", {}).get("copy_gigabytes_a_second")
    return {"ms": ms, "plain_ms": twin, "gigabytes_a_second": rate, "copy_share": rate / copy if copy else None}


def cases() -> Iterator[Case]:
    """Yields all operations to measure. x, y and the gradients are [B, N, D], hidden [B, N, 4 D], qkv [B, N, 3 D], the
    vectors [B, D]."""
    yield Case("norm, scale, shift", lambda k, o: k.modulated_norm(o["x"], o["shift"], o["scale"], EPS), ("x", "x"))
    yield Case(
        "bias, gate, residual, norm, scale, shift",
        lambda k, o: k.gated_norm(o["x"], o["y"], **_named(o, "bias gate shift scale"), eps=EPS, in_place=False),
        ("x", "y", "x", "x"),
    )
    yield Case("bias, GELU", lambda k, o: k.gelu(o["hidden"], o["hidden_bias"], in_place=False), ("hidden", "hidden"))
    yield Case(
        "scale, shift of a part", lambda k, o: k.affine(o["qkv"].chunk(3, -1)[0], o["scale"], o["shift"]), ("x", "x")
    )
    yield Case(
        "norm, backward",
        lambda k, o: k.modulated_norm_backward(o["grad"], o["x"], o["scale"], EPS),
        ("grad", "x", "x"),
    )
    yield Case(
        "gate and norm, backward",
        lambda k, o: k.gated_norm_backward(
            o["grad"], o["y"], o["x"], o["y"], **_named(o, "bias gate scale"), eps=EPS, saved_input=False
        ),
        ("grad", "grad", "x", "y", "x", "y"),
    )
    yield Case(
        "GELU, backward",
        lambda k, o: k.gelu_backward(o["grad_hidden"], o["hidden"], o["hidden_bias"]),
        ("hidden", "hidden", "hidden"),
    )
    yield Case(
        "scale, shift of a part, backward",
        lambda k, o: k.query_backward(o["grad"], o["x"], o["y"], o["qkv"], o["scale"]),
        ("qkv", "qkv", "x"),
    )
    yield Case(
        "scale, shift, backward", lambda k, o: k.affine_backward(o["grad"], o["x"], o["scale"]), ("grad", "x", "x")
    )


def _named(operands: Operands, names: str) -> Operands:
    return {name: operands[name] for name in names.split()}


def _operands(lab: Lab, rows: int) -> Operands:
    """Returns random operands by name: tensors of tokens in the base's dtype, vectors in fp32."""
    config, generator = lab.config, torch.Generator(lab.device).manual_seed(3)
    wide = {"x": 1, "y": 1, "grad": 1, "hidden": config.mlp_ratio, "grad_hidden": config.mlp_ratio, "qkv": 3}
    vectors = {"shift": 1, "scale": 1, "bias": 1, "gate": 1, "hidden_bias": config.mlp_ratio}

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=lab.device)

    d = config.hidden_size
    tokens = {name: random(rows, config.tokens, int(part * d)).to(lab.dtype) for name, part in wide.items()}
    return tokens | {name: random(rows, int(part * d)) for name, part in vectors.items()}


def _tensors(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [tensor for tensor in value if tensor is not None]
