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
IMAGES = [(2, 32, 8, 8), (3, 48, 7, 5), (1, 8, 1, 1), (2, 24, 33, 31), (1, 6, 70, 70)]
"""[B, C, H, W]: from one pixel to many parts, with as many channels as a block has, and with fewer."""


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


def image(shape: tuple[int, int, int, int], seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Returns channels with different means, in channels_last."""
    values = 3 * numbers(*shape, seed=seed) + 20 * numbers(1, shape[1], 1, 1)
    return values.to(dtype, memory_format=torch.channels_last)


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("shape", IMAGES)
def test_group_norm_silu_is_its_twin_in_fp64(
    triton_kernels: ModuleType, shape: tuple[int, int, int, int], with_bias: bool, dtype: torch.dtype
) -> None:
    x, channels = image(shape, dtype=dtype), shape[1]
    groups = {6: 2, 8: 4}.get(channels, 8)
    shift, scale, bias = (numbers(channels, seed=seed).to(dtype) for seed in range(3))
    expected = plain.group_norm_silu(
        x.double(), shift.double(), scale.double(), groups, 1e-6, bias=bias.double() if with_bias else None
    )
    result = triton_kernels.group_norm_silu(x, shift, scale, groups, 1e-6, bias=bias if with_bias else None)
    assert result.dtype == dtype
    assert (result is x) == with_bias
    assert_close(result.double(), expected, 2e-5 if dtype == torch.float32 else 1e-3)


@pytest.mark.filterwarnings("ignore:overflow")  # in the masked values of the logistic function
def test_group_norm_keeps_a_deviation_far_below_the_mean(triton_kernels: ModuleType) -> None:
    """In fp32, the mean of the squares minus the square of the mean would be wrong by several percent."""
    x = (1000 + numbers(2, 8, 20, 20)).contiguous(memory_format=torch.channels_last)
    shift, scale = numbers(8), numbers(8, seed=1)
    expected = plain.group_norm_silu(x.double(), shift.double(), scale.double(), 4, 1e-6)
    assert_close(triton_kernels.group_norm_silu(x, shift, scale, 4, 1e-6).double(), expected, 2e-4)


def test_group_norm_of_zeros_is_its_shift(triton_kernels: ModuleType) -> None:
    zero, shift = torch.zeros(2, 8, 9, 9).contiguous(memory_format=torch.channels_last), numbers(8)
    result = triton_kernels.group_norm_silu(zero, shift, shift, 4, 1e-6)
    assert_close(result, torch.nn.functional.silu(shift)[:, None, None].expand_as(zero))


@pytest.mark.filterwarnings("ignore:invalid value")
def test_group_norm_of_an_overflow_is_not_finite(triton_kernels: ModuleType) -> None:
    """The service decodes an image again in fp32 if its pixels are not finite."""
    x, vector = image((2, 8, 9, 9)), torch.ones(8)
    expected = triton_kernels.group_norm_silu(x, vector, vector, 4, 1e-6)
    x[1, 3, 4, 5] = torch.inf
    result = triton_kernels.group_norm_silu(x, vector, vector, 4, 1e-6)
    assert not result[1, 2:4].isfinite().any()
    result[1, 2:4] = expected[1, 2:4]
    assert torch.equal(result, expected)


@pytest.mark.parametrize("shape", IMAGES)
def test_channel_sums_are_of_differences_from_the_first_pixel(
    triton_kernels: ModuleType, shape: tuple[int, int, int, int]
) -> None:
    x = image(shape)
    difference = (x - x[:, :, :1, :1]).double()
    expected = torch.stack([difference.sum((2, 3)), difference.square().sum((2, 3))], 1)
    assert_close(triton_kernels.channel_sums(x).sum(1), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("shape", IMAGES)
def test_addition_is_its_twin_and_emits_sums(
    triton_kernels: ModuleType, shape: tuple[int, int, int, int], dtype: torch.dtype
) -> None:
    x, y, bias = image(shape, dtype=dtype), image(shape, seed=1, dtype=dtype), numbers(shape[1]).to(dtype)
    result, sums = triton_kernels.add(x, y, bias)
    expected, _ = plain.add(x.double(), y.double(), bias.double())
    assert_close(result.double(), expected, 1e-6 if dtype == torch.float32 else 5e-4)
    assert torch.equal(sums, triton_kernels.channel_sums(result))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("batch", "channels", "height", "width"), [(2, 32, 4, 4), (3, 6, 1, 1), (1, 12, 17, 35)])
def test_interleaving_is_its_twin_and_emits_sums(
    triton_kernels: ModuleType, batch: int, channels: int, height: int, width: int, dtype: torch.dtype
) -> None:
    phases = image((batch, 4 * channels, height + 1, width + 1), dtype=dtype)
    bias = numbers(channels).to(dtype)
    result, sums = triton_kernels.interleave(phases, bias)
    assert result.shape == (batch, channels, 2 * height, 2 * width)
    assert torch.equal(result, plain.interleave(phases, bias)[0])
    assert torch.equal(sums, triton_kernels.channel_sums(result))


def test_operations_on_an_image_do_not_depend_on_its_batch(triton_kernels: ModuleType) -> None:
    def results(x: Tensor) -> list[Tensor]:
        y, sums = triton_kernels.add(x, x, shift)
        up, up_sums = triton_kernels.interleave(x, shift[:8])
        return [
            triton_kernels.group_norm_silu(y, shift, shift, 8, 1e-6, sums=sums),
            triton_kernels.group_norm_silu(up, shift[:8], shift[:8], 4, 1e-6, sums=up_sums),
        ]

    batch, shift = image((3, 32, 20, 20)), numbers(32)
    together, alone = results(batch), results(batch[1:2])
    assert all(torch.equal(several[1:2], single) for several, single in zip(together, alone, strict=True))
