"""The fused operations in Triton: each reads and writes its token-wide tensors once.

Tensors of tokens are contiguous, [B, N, D]. Vectors are [B, D] with any stride over images, 0 included, and stride 1
over features. All arithmetic is fp32; a gradient that is summed over tokens is summed in fp32, in a fixed order: each
program writes the sums of its tokens, [B, parts, kinds, D], and PyTorch adds the parts.

Letters in shapes: B images, N tokens, D features.
"""

# Triton reads these functions as source, so that they carry no types: mypy checks this module loosely (pyproject.toml).

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS = 4
"""Tokens that one program holds at once."""
SUMMED_TOKENS = 16
"""Tokens whose gradients one program sums."""
COLUMNS = 512
"""Features of one program where features are independent."""
MAX_SCORES = 128
"""Queries, and keys, of one step of the attention."""
_WARPS = 4


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """LayerNorm(x) * scale + shift: x [B, N, D], shift and scale [B, D] -> [B, N, D]"""
    normal = torch.empty_like(x)
    _gated_norm[_token_grid(x)](
        x, x, shift, shift, shift, scale, x, normal, x.shape[1], 0, 0, *_strides(shift, scale), eps,
        D=x.shape[2], BLOCK=_block(x), ROWS=ROWS, GATED=False, num_warps=_WARPS,
    )  # fmt: skip
    return normal


def modulated_norm_backward(grad: Tensor, x: Tensor, scale: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x [B, N, D], shift and scale [B, D]"""
    grad_x, sums = torch.empty_like(x), _sums(x, 4)
    _gated_norm_backward[_sum_grid(x)](
        grad, grad, x, x, scale, scale, grad_x, grad_x, sums, x.shape[1], 0, *_strides(scale), eps,
        D=x.shape[2], BLOCK=_block(x), ROWS=ROWS, TOKENS=SUMMED_TOKENS, GATED=False, HAS_RESIDUAL=False,
        num_warps=_WARPS,
    )  # fmt: skip
    grad_shift, grad_scale, _, _ = sums.sum(1).unbind(1)
    return grad_x, grad_shift, grad_scale


def gated_norm(
    x: Tensor, y: Tensor, bias: Tensor, gate: Tensor, shift: Tensor, scale: Tensor, eps: float, *, in_place: bool
) -> tuple[Tensor, Tensor]:
    """x + gate * (y + bias), and its `modulated_norm`: x and y [B, N, D], the others [B, D] -> two of [B, N, D]"""
    moved, normal = x if in_place else torch.empty_like(x), torch.empty_like(x)
    _gated_norm[_token_grid(x)](
        x, y, bias, gate, shift, scale, moved, normal, x.shape[1], *_strides(bias, gate, shift, scale), eps,
        D=x.shape[2], BLOCK=_block(x), ROWS=ROWS, GATED=True, num_warps=_WARPS,
    )  # fmt: skip
    return moved, normal


def gated_norm_backward(
    grad_moved: Tensor | None,
    grad_normal: Tensor,
    moved: Tensor,
    y: Tensor,
    bias: Tensor,
    gate: Tensor,
    scale: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x and y [B, N, D], and of bias, gate, shift and scale [B, D].

    `moved` is the first result of `gated_norm`, and `grad_moved` its gradient where it has one.
    """
    grad_x, grad_y, sums = torch.empty_like(y), torch.empty_like(y), _sums(y, 4)
    _gated_norm_backward[_sum_grid(y)](
        grad_normal if grad_moved is None else grad_moved, grad_normal, moved, y, gate, scale, grad_x, grad_y, sums,
        y.shape[1], *_strides(gate, scale), eps,
        D=y.shape[2], BLOCK=_block(y), ROWS=ROWS, TOKENS=SUMMED_TOKENS, GATED=True,
        HAS_RESIDUAL=grad_moved is not None, num_warps=_WARPS,
    )  # fmt: skip
    grad_shift, grad_scale, along, total = sums.sum(1).unbind(1)
    return grad_x, grad_y, total * gate, along + total * bias, grad_shift, grad_scale


def gelu(y: Tensor, bias: Tensor, *, in_place: bool) -> Tensor:
    """GELU(y + bias), with the hyperbolic tangent's approximation: y [B, N, D], bias [B, D] -> [B, N, D]"""
    result = y if in_place else torch.empty_like(y)
    _gelu[_column_grid(y, 2 * ROWS)](
        y, bias, result, y.shape[1], *_strides(bias), D=y.shape[2], BLOCK=COLUMNS, ROWS=2 * ROWS, num_warps=_WARPS
    )
    return result


def gelu_backward(grad: Tensor, y: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of y [B, N, D] and bias [B, D]"""
    grad_y, sums = torch.empty_like(y), _sums(y, 1)
    _gelu_backward[_column_grid(y, SUMMED_TOKENS)](
        grad, y, bias, grad_y, sums, y.shape[1], *_strides(bias),
        D=y.shape[2], BLOCK=COLUMNS, ROWS=ROWS, TOKENS=SUMMED_TOKENS, num_warps=_WARPS,
    )  # fmt: skip
    return grad_y, sums.sum(1)[:, 0]


def affine(x: Tensor, scale: Tensor, shift: Tensor, *, out: Tensor | None = None) -> Tensor:
    """x * scale + shift: x [B, N, D], perhaps the first D features of a wider tensor, the others [B, D] -> [B, N, D]"""
    result = torch.empty(x.shape, dtype=x.dtype, device=x.device) if out is None else out
    _affine[_column_grid(x, 2 * ROWS)](
        x, scale, shift, result, x.shape[1], x.stride(1), result.stride(1), *_strides(scale, shift),
        D=x.shape[2], BLOCK=COLUMNS, ROWS=2 * ROWS, num_warps=_WARPS,
    )  # fmt: skip
    return result


def affine_backward(grad: Tensor, x: Tensor, scale: Tensor, *, out: Tensor | None = None) -> tuple[Tensor, ...]:
    """Gradients of x [B, N, D], scale and shift [B, D]. x may be a part of a wider tensor, and so may `out`."""
    grad_x, sums = torch.empty_like(grad) if out is None else out, _sums(grad, 2)
    _affine_backward[_column_grid(x, SUMMED_TOKENS)](
        grad, x, scale, grad_x, sums, x.shape[1], x.stride(1), grad_x.stride(1), *_strides(scale),
        D=x.shape[2], BLOCK=COLUMNS, ROWS=ROWS, TOKENS=SUMMED_TOKENS, num_warps=_WARPS,
    )  # fmt: skip
    grad_scale, grad_shift = sums.sum(1).unbind(1)
    return grad_x, grad_scale, grad_shift


def attention(
    qkv: Tensor, query_scale: Tensor, query_shift: Tensor, value_scale: Tensor, value_shift: Tensor, heads: int
) -> Tensor:
    """softmax((q * query_scale + query_shift) k^T / sqrt(d)) v * value_scale + value_shift for each head of d features.

    qkv [B, N, 3 D] in 16 bits, the others [B, D] -> [B, N, D]
    """
    batch, tokens, width = qkv.shape
    d = width // 3 // heads
    result = torch.empty(batch, tokens, width // 3, dtype=qkv.dtype, device=qkv.device)
    low = max(16, 1 << (d.bit_length() - 1))  # d as a power of two and a rest: no head is padded to the next power
    high = 0 if d <= low else max(16, triton.next_power_of_2(d - low))
    step = min(MAX_SCORES, max(16, triton.next_power_of_2(tokens)))
    vectors = (query_scale, query_shift, value_scale, value_shift)
    _attention[(triton.cdiv(tokens, step), heads, batch)](
        qkv, *vectors, result, *_strides(*vectors), 1.4426950408889634 / d**0.5,
        TOKENS=tokens, D=width // 3, HEAD=d, LOW=low, HIGH=high, QUERIES=step, KEYS=step,
        num_warps=8 if step == MAX_SCORES else _WARPS, num_stages=2,
    )  # fmt: skip
    return result


@triton.jit
def _normalized(x, inside, D, eps):
    """Rows [ROWS, BLOCK], zero outside of D features, and 1 / deviation [ROWS]"""
    mean = tl.sum(x, 1) / D
    centered = tl.where(inside, x - mean[:, None], 0.0)
    inverse = 1 / tl.sqrt(tl.sum(centered * centered, 1) / D + eps)
    return centered * inverse[:, None], inverse


@triton.jit
def _vector(pointer, image, stride, columns, inside):
    return tl.load(pointer + image * stride + columns, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _gated_norm(
    x_at, y_at, bias_at, gate_at, shift_at, scale_at, moved_at, normal_at,
    tokens, bias_stride, gate_stride, shift_stride, scale_stride, eps,
    D: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, GATED: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(1).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < D
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    mask = (rows < tokens)[:, None] & inside[None, :]
    at = (image * tokens + rows)[:, None] * D + columns[None, :]
    x = tl.load(x_at + at, mask=mask, other=0.0).to(tl.float32)
    if GATED:
        y = tl.load(y_at + at, mask=mask, other=0.0).to(tl.float32)
        bias = _vector(bias_at, image, bias_stride, columns, inside)
        gate = _vector(gate_at, image, gate_stride, columns, inside)
        moved = (x + gate[None, :] * (y + bias[None, :])).to(moved_at.dtype.element_ty)
        tl.store(moved_at + at, moved, mask=mask)
        x = moved.to(tl.float32)
    normal, _ = _normalized(x, inside[None, :], D, eps)
    shift = _vector(shift_at, image, shift_stride, columns, inside)
    scale = _vector(scale_at, image, scale_stride, columns, inside)
    tl.store(normal_at + at, normal * scale[None, :] + shift[None, :], mask=mask)


@triton.jit
def _gated_norm_backward(
    grad_moved_at, grad_normal_at, moved_at, y_at, gate_at, scale_at, grad_x_at, grad_y_at, sums_at,
    tokens, gate_stride, scale_stride, eps,
    D: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, TOKENS: tl.constexpr,
    GATED: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
):  # fmt: skip
    part, image = tl.program_id(0), tl.program_id(1).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < D
    scale = _vector(scale_at, image, scale_stride, columns, inside)
    sum_shift = tl.zeros([BLOCK], tl.float32)
    sum_scale = tl.zeros([BLOCK], tl.float32)
    sum_along = tl.zeros([BLOCK], tl.float32)
    sum_grad = tl.zeros([BLOCK], tl.float32)
    if GATED:
        gate = _vector(gate_at, image, gate_stride, columns, inside)
    for start in range(0, TOKENS, ROWS):
        rows = part * TOKENS + start + tl.arange(0, ROWS)
        mask = (rows < tokens)[:, None] & inside[None, :]
        at = (image * tokens + rows)[:, None] * D + columns[None, :]
        grad = tl.load(grad_normal_at + at, mask=mask, other=0.0).to(tl.float32)
        normal, inverse = _normalized(
            tl.load(moved_at + at, mask=mask, other=0.0).to(tl.float32), inside[None, :], D, eps
        )
        sum_shift += tl.sum(grad, 0)
        sum_scale += tl.sum(grad * normal, 0)
        grad *= scale[None, :]
        # d LayerNorm: what is left of the gradient without its mean and its part along the normalized x
        along = tl.sum(grad * normal, 1) / D
        grad = (grad - (tl.sum(grad, 1) / D)[:, None] - normal * along[:, None]) * inverse[:, None]
        if HAS_RESIDUAL:
            grad += tl.load(grad_moved_at + at, mask=mask, other=0.0).to(tl.float32)
        grad = tl.where(mask, grad, 0.0)
        tl.store(grad_x_at + at, grad, mask=mask)
        if GATED:
            sum_along += tl.sum(grad * tl.load(y_at + at, mask=mask, other=0.0).to(tl.float32), 0)
            sum_grad += tl.sum(grad, 0)
            tl.store(grad_y_at + at, grad * gate[None, :], mask=mask)
    into = sums_at + (image * tl.num_programs(0) + part) * 4 * D + columns
    tl.store(into, sum_shift, mask=inside)
    tl.store(into + D, sum_scale, mask=inside)
    if GATED:
        tl.store(into + 2 * D, sum_along, mask=inside)
        tl.store(into + 3 * D, sum_grad, mask=inside)


@triton.jit
def _logistic(x):
    """0.5 (1 + tanh z) of the GELU's z = sqrt(2 / pi) (x + 0.044715 x^3), as the logistic function of 2 z"""
    return tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))


@triton.jit
def _gelu(y_at, bias_at, result_at, tokens, bias_stride, D: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr):
    image = tl.program_id(2).to(tl.int64)
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < D
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    mask = (rows < tokens)[:, None] & inside[None, :]
    at = (image * tokens + rows)[:, None] * D + columns[None, :]
    x = tl.load(y_at + at, mask=mask, other=0.0).to(tl.float32)
    x += _vector(bias_at, image, bias_stride, columns, inside)[None, :]
    tl.store(result_at + at, x * _logistic(x), mask=mask)


@triton.jit
def _gelu_backward(
    grad_at, y_at, bias_at, grad_y_at, sums_at, tokens, bias_stride,
    D: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    part, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < D
    bias = _vector(bias_at, image, bias_stride, columns, inside)
    sum_bias = tl.zeros([BLOCK], tl.float32)
    for start in range(0, TOKENS, ROWS):
        rows = part * TOKENS + start + tl.arange(0, ROWS)
        mask = (rows < tokens)[:, None] & inside[None, :]
        at = (image * tokens + rows)[:, None] * D + columns[None, :]
        x = tl.load(y_at + at, mask=mask, other=0.0).to(tl.float32) + bias[None, :]
        s = _logistic(x)
        # d (x s) = s + x s (1 - s) (2 z)', and (2 z)' = sqrt(8 / pi) (1 + 3 * 0.044715 x^2)
        slope = s + x * s * (1 - s) * 1.5957691216057308 * (1 + 0.134145 * x * x)
        grad = tl.load(grad_at + at, mask=mask, other=0.0).to(tl.float32) * slope
        sum_bias += tl.sum(grad, 0)
        tl.store(grad_y_at + at, grad, mask=mask)
    tl.store(sums_at + (image * tl.num_programs(1) + part) * D + columns, sum_bias, mask=inside)


@triton.jit
def _affine(
    x_at, scale_at, shift_at, result_at, tokens, x_stride, result_stride, scale_stride, shift_stride,
    D: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(2).to(tl.int64)
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < D
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    mask = (rows < tokens)[:, None] & inside[None, :]
    lines = (image * tokens + rows)[:, None]
    x = tl.load(x_at + lines * x_stride + columns[None, :], mask=mask, other=0.0).to(tl.float32)
    scale = _vector(scale_at, image, scale_stride, columns, inside)
    shift = _vector(shift_at, image, shift_stride, columns, inside)
    tl.store(result_at + lines * result_stride + columns[None, :], x * scale[None, :] + shift[None, :], mask=mask)


@triton.jit
def _affine_backward(
    grad_at, x_at, scale_at, grad_x_at, sums_at, tokens, x_stride, grad_x_stride, scale_stride,
    D: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    part, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < D
    scale = _vector(scale_at, image, scale_stride, columns, inside)
    sum_scale = tl.zeros([BLOCK], tl.float32)
    sum_shift = tl.zeros([BLOCK], tl.float32)
    for start in range(0, TOKENS, ROWS):
        rows = part * TOKENS + start + tl.arange(0, ROWS)
        mask = (rows < tokens)[:, None] & inside[None, :]
        lines = (image * tokens + rows)[:, None]
        x = tl.load(x_at + lines * x_stride + columns[None, :], mask=mask, other=0.0).to(tl.float32)
        grad = tl.load(grad_at + lines * D + columns[None, :], mask=mask, other=0.0).to(tl.float32)
        sum_scale += tl.sum(grad * x, 0)
        sum_shift += tl.sum(grad, 0)
        tl.store(grad_x_at + lines * grad_x_stride + columns[None, :], grad * scale[None, :], mask=mask)
    into = sums_at + (image * tl.num_programs(1) + part) * 2 * D + columns
    tl.store(into, sum_scale, mask=inside)
    tl.store(into + D, sum_shift, mask=inside)


@triton.jit
def _affine_head(at, mask, scale_at, shift_at, features, inside):
    """A part of a head's queries, scaled and shifted, in the tensor's own type"""
    scale = tl.load(scale_at + features, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(shift_at + features, mask=inside, other=0.0).to(tl.float32)
    q = tl.load(at, mask=mask, other=0.0)
    return (q.to(tl.float32) * scale[None, :] + shift[None, :]).to(q.dtype)


@triton.jit
def _attention(
    qkv_at, query_scale_at, query_shift_at, value_scale_at, value_shift_at, result_at,
    query_scale_stride, query_shift_stride, value_scale_stride, value_shift_stride, to_log2,
    TOKENS: tl.constexpr, D: tl.constexpr, HEAD: tl.constexpr, LOW: tl.constexpr, HIGH: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """A head's features are LOW, and HIGH more where the head is no power of two: products of each are summed."""
    head, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    rows = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    low = tl.arange(0, LOW)
    first = qkv_at + image * TOKENS * 3 * D + head * HEAD
    inside_low, row_mask = low < HEAD, (rows < TOKENS)[:, None]
    query_scale_at += image * query_scale_stride + head * HEAD
    query_shift_at += image * query_shift_stride + head * HEAD
    value_scale_at += image * value_scale_stride + head * HEAD
    value_shift_at += image * value_shift_stride + head * HEAD
    lines = first + rows[:, None] * 3 * D
    q_low = _affine_head(
        lines + low[None, :], row_mask & inside_low[None, :], query_scale_at, query_shift_at, low, inside_low
    )
    acc_low = tl.zeros([QUERIES, LOW], tl.float32)
    if HIGH:
        high = LOW + tl.arange(0, HIGH)
        inside_high = high < HEAD
        mask_high = row_mask & inside_high[None, :]
        q_high = _affine_head(lines + high[None, :], mask_high, query_scale_at, query_shift_at, high, inside_high)
        acc_high = tl.zeros([QUERIES, HIGH], tl.float32)
    largest = tl.full([QUERIES], -float("inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    for start in range(0, TOKENS, KEYS):
        keys = start + tl.arange(0, KEYS)
        present = keys < TOKENS
        at = first + D + keys[:, None] * 3 * D
        k_low = tl.load(at + low[None, :], mask=present[:, None] & inside_low[None, :], other=0.0)
        scores = tl.dot(q_low, k_low.T)
        if HIGH:
            k_high = tl.load(at + high[None, :], mask=present[:, None] & inside_high[None, :], other=0.0)
            scores += tl.dot(q_high, k_high.T)
        scores = tl.where(present[None, :], scores * to_log2, -float("inf"))
        peak = tl.maximum(largest, tl.max(scores, 1))
        weights = tl.exp2(scores - peak[:, None])
        shrunk = tl.exp2(largest - peak)
        total = total * shrunk + tl.sum(weights, 1)
        largest = peak
        v_low = tl.load(at + D + low[None, :], mask=present[:, None] & inside_low[None, :], other=0.0)
        acc_low = acc_low * shrunk[:, None] + tl.dot(weights.to(v_low.dtype), v_low)
        if HIGH:
            v_high = tl.load(at + D + high[None, :], mask=present[:, None] & inside_high[None, :], other=0.0)
            acc_high = acc_high * shrunk[:, None] + tl.dot(weights.to(v_high.dtype), v_high)
    out = result_at + (image * TOKENS + rows)[:, None] * D + head * HEAD
    scale = tl.load(value_scale_at + low, mask=inside_low, other=0.0).to(tl.float32)
    shift = tl.load(value_shift_at + low, mask=inside_low, other=0.0).to(tl.float32)
    tl.store(
        out + low[None, :],
        acc_low / total[:, None] * scale[None, :] + shift[None, :],
        mask=row_mask & inside_low[None, :],
    )
    if HIGH:
        scale = tl.load(value_scale_at + high, mask=inside_high, other=0.0).to(tl.float32)
        shift = tl.load(value_shift_at + high, mask=inside_high, other=0.0).to(tl.float32)
        mixed = acc_high / total[:, None] * scale[None, :] + shift[None, :]
        tl.store(out + high[None, :], mixed, mask=mask_high)


def _block(x: Tensor) -> int:
    block: int = triton.next_power_of_2(x.shape[2])
    return block


def _token_grid(x: Tensor) -> tuple[int, int]:
    return triton.cdiv(x.shape[1], ROWS), x.shape[0]


def _sum_grid(x: Tensor) -> tuple[int, int]:
    return triton.cdiv(x.shape[1], SUMMED_TOKENS), x.shape[0]


def _column_grid(x: Tensor, rows: int) -> tuple[int, int, int]:
    return triton.cdiv(x.shape[2], COLUMNS), triton.cdiv(x.shape[1], rows), x.shape[0]


def _sums(x: Tensor, kinds: int) -> Tensor:
    """[B, parts, kinds, D] for the sums of each program"""
    return torch.empty(x.shape[0], _sum_grid(x)[0], kinds, x.shape[2], dtype=torch.float32, device=x.device)


def _strides(*vectors: Tensor) -> tuple[Any, ...]:
    return tuple(vector.stride(0) for vector in vectors)
