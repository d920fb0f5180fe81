"""Triton kernels, run by Triton's interpreter (see `tests/conftest.py`), compared with their plain twins."""

import importlib
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from core.ml.model.kernels import operations, plain

pytest.importorskip("triton", reason="Triton has wheels for Linux alone")
SHAPES = [(2, 16, 24), (1, 5, 7), (3, 33, 48)]
"""[B, N, D]: one that blocks divide, one smaller than a block, and one that blocks do not divide."""


@pytest.fixture(scope="module")
def triton_kernels() -> ModuleType:
    return importlib.import_module("core.ml.model.kernels.triton_kernels")


def numbers(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def vectors(shape: tuple[int, int, int], count: int) -> list[Tensor]:
    """Returns `count` tensors [B, D], each contiguous, strided, or expanded from one image."""
    batch, _, d = shape
    wide = numbers(batch, 3, d)
    kinds = [numbers(batch, d, seed=1), wide[:, 1], numbers(1, d, seed=2).expand(batch, -1), wide[:, 2]]
    return kinds[:count]


def assert_close(actual: Any, expected: Any, tolerance: float = 2e-5) -> None:
    actuals, references = ((value,) if isinstance(value, Tensor) else value for value in (actual, expected))
    for index, (value, reference) in enumerate(zip(actuals, references, strict=True)):
        largest = float(reference.abs().max()) or 1.0
        assert float((value - reference).abs().max()) <= tolerance * largest, index


@pytest.mark.parametrize("shape", SHAPES)
def test_modulated_norm_is_its_twin(triton_kernels: ModuleType, shape: tuple[int, int, int]) -> None:
    x, (shift, scale), grad = numbers(*shape, scale=30), vectors(shape, 2), numbers(*shape, seed=9)
    assert_close(triton_kernels.modulated_norm(x, shift, scale, 1e-6), plain.modulated_norm(x, shift, scale, 1e-6))
    grads = triton_kernels.modulated_norm_backward(grad, x, scale, 1e-6)
    assert_close(grads, plain.modulated_norm_backward(grad, x, scale, 1e-6))


def test_norm_accepts_a_part_of_the_tokens(triton_kernels: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """VPT drops its prompts with a view of the tokens, but the kernels read contiguous tokens only."""
    monkeypatch.setattr(operations, "_kernels", lambda _: triton_kernels)
    x, (shift, scale) = numbers(2, 9, 24)[:, 1:].requires_grad_(), vectors((2, 8, 24), 2)
    output = operations.modulated_norm(x, shift, scale, 1e-6)
    assert_close(output.detach(), plain.modulated_norm(x.detach(), shift, scale, 1e-6))
    grad = numbers(2, 10, 24, seed=3)[:, 2:]
    (grad_x,) = torch.autograd.grad(output, x, grad)
    assert_close(grad_x, plain.modulated_norm_backward(grad, x.detach(), scale, 1e-6)[0])


@pytest.mark.parametrize("with_residual", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_gated_norm_is_its_twin(triton_kernels: ModuleType, shape: tuple[int, int, int], with_residual: bool) -> None:
    x, y, (bias, gate, shift, scale) = numbers(*shape), numbers(*shape, seed=3), vectors(shape, 4)
    results = triton_kernels.gated_norm(x, y, bias, gate, shift, scale, 1e-6, in_place=False)
    expected = plain.gated_norm(x, y, bias, gate, shift, scale, 1e-6, in_place=False)
    assert_close(results, expected)
    grad_moved = numbers(*shape, seed=4) if with_residual else None
    for saved, saved_input in ((expected[0], False), (x, True)):
        rest = (grad_moved, numbers(*shape, seed=5), saved, y, bias, gate, scale, 1e-6)
        results = triton_kernels.gated_norm_backward(*rest, saved_input=saved_input)
        assert_close(results, plain.gated_norm_backward(*rest, saved_input=saved_input))


@pytest.mark.filterwarnings("ignore:overflow")  # the logistic function's exp of a large number is infinite
@pytest.mark.parametrize("shape", SHAPES)
def test_gelu_is_its_twin(triton_kernels: ModuleType, shape: tuple[int, int, int]) -> None:
    y, (bias,), grad = numbers(*shape, scale=10), vectors(shape, 1), numbers(*shape, seed=6)
    y[0, 0, :3] = torch.tensor([0.0, 1e4, -1e4])
    assert_close(triton_kernels.gelu(y, bias, in_place=False), plain.gelu(y, bias, in_place=False))
    assert_close(triton_kernels.gelu_backward(grad, y, bias), plain.gelu_backward(grad, y, bias))


@pytest.mark.parametrize("shape", SHAPES)
def test_affine_changes_only_its_part_of_a_tensor(triton_kernels: ModuleType, shape: tuple[int, int, int]) -> None:
    batch, tokens, d = shape
    wide, (scale, shift), grad = numbers(batch, tokens, 3 * d), vectors(shape, 2), numbers(*shape, seed=7)
    part = wide[..., :d]
    assert_close(triton_kernels.affine(part, scale, shift), plain.affine(part, scale, shift))
    changed = wide.clone()
    triton_kernels.affine(changed[..., :d], scale, shift, in_place=True)
    assert_close(changed, torch.cat([plain.affine(part, scale, shift), wide[..., d:]], -1))
    assert_close(triton_kernels.affine_backward(grad, part, scale), plain.affine_backward(grad, part, scale))


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_of_query_key_and_value_get_into_one_tensor(
    triton_kernels: ModuleType, shape: tuple[int, int, int]
) -> None:
    batch, tokens, d = shape
    qkv, (scale, _) = numbers(batch, tokens, 3 * d), vectors(shape, 2)
    grads = [numbers(*shape, seed=seed) for seed in (7, 8, 9)]
    grad_qkv, grad_scale, grad_shift = triton_kernels.query_backward(*grads, qkv, scale)
    assert_close((grad_qkv, grad_scale, grad_shift), plain.query_backward(*grads, qkv, scale))
    assert torch.equal(grad_qkv[..., d:], torch.cat(grads[1:], -1))


@pytest.mark.parametrize("shape", [(5, 24), (33, 48), (3, 1152)])
def test_quantization_is_its_twin(triton_kernels: ModuleType, shape: tuple[int, int]) -> None:
    """Leaves out values that Triton's interpreter does not round as a GPU does: those that become a power of two, and
    those below fp8's smallest normal number."""
    x = numbers(*shape)
    x[0], x[1, 0], x[2] = 0, 1e4, x[2] * 1e-9
    (values, scales), (expected, expected_scales) = triton_kernels.quantized(x), plain.quantized(x)
    assert torch.equal(scales, expected_scales)
    compared = (expected.float().abs() >= 2**-6) & (expected.float().abs().log2() % 1 != 0)
    assert compared.float().mean() > 0.3
    assert torch.equal(values.float()[compared], expected.float()[compared])


def test_quantized_values_are_within_a_sixteenth() -> None:
    """fp8 has three bits behind the leading one, so that rounding changes a value by at most 1/16 of it. Values below
    1/64 of fp8's scale are rounded to multiples of 1/512."""
    x = numbers(50, 200, scale=7)
    values, scales = plain.quantized(x)
    error = (values.float() * scales - x).abs()
    assert bool((error <= x.abs() / 16 + scales / 1000).all())
    assert torch.equal(values.float().abs().amax(1), torch.full((50,), 448.0))


@pytest.mark.parametrize("shape", SHAPES)
def test_zeros_give_finite_results(triton_kernels: ModuleType, shape: tuple[int, int, int]) -> None:
    zero, vector = torch.zeros(shape), torch.zeros(shape[0], shape[2])
    results = [
        triton_kernels.modulated_norm(zero, vector, vector, 1e-6),
        *triton_kernels.gated_norm(zero, zero, vector, vector, vector, vector, 1e-6, in_place=False),
        *triton_kernels.gated_norm_backward(zero, zero, zero, zero, vector, vector, vector, 1e-6, saved_input=True),
        triton_kernels.gelu(zero, vector, in_place=False),
        *triton_kernels.gelu_backward(zero, zero, vector),
    ]
    assert all(result.isfinite().all() for result in results)


def test_half_precision_gradients_are_accumulated_in_fp32(triton_kernels: ModuleType) -> None:
    """Sums a gradient over 4,096 tokens; in half precision the sum of ones would stop at 2,048."""
    ones = torch.ones(1, 4096, 8, dtype=torch.float16)
    _, total = triton_kernels.gelu_backward(ones, 20 * ones, torch.zeros(1, 8))
    assert torch.allclose(total, torch.full((1, 8), 4096.0))
