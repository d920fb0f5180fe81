"""The fused operations in Triton: each reads and writes its token-wide tensors once.

Tensors of tokens are contiguous, [B, N, D]. Vectors are [B, D] with any stride over images, 0 included, and stride 1
over features. All arithmetic is fp32; a gradient that is summed over tokens is summed in fp32, in a fixed order: each
program writes the sums of its tokens, [B, parts, kinds, D], and PyTorch adds the parts.

Letters in shapes: B images, N tokens, D features.
"""

from typing import Any

import torch
import triton
from torch import Tensor

from core.model.kernels import device_code

SUMMED_TOKENS = 16
"""Tokens whose gradients one program sums."""
COLUMNS = 512
"""Features of one program where features are independent."""
MAX_SCORES = 128
"""Queries, and keys, of one step of the attention."""

# Tokens that a program holds at once, and its warps: the fastest on an H200 at DiT-XL/2's shapes.
_NORM = {"ROWS": 4, "num_warps": 8}
_NORM_BACKWARD = {"ROWS": 2, "TOKENS": SUMMED_TOKENS, "num_warps": 8}
_COLUMNS = {"BLOCK": COLUMNS, "ROWS": 8, "num_warps": 4}
_COLUMNS_BACKWARD = {"BLOCK": COLUMNS, "ROWS": 1, "TOKENS": SUMMED_TOKENS, "num_warps": 4}


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """LayerNorm(x) * scale + shift: x [B, N, D], shift and scale [B, D] -> [B, N, D]"""
    normal = torch.empty_like(x)
    device_code.gated_norm[_token_grid(x)](
        x, x, shift, shift, shift, scale, x, normal, x.shape[1], 0, 0, *_strides(shift, scale), eps,
        D=x.shape[2], BLOCK=_block(x), GATED=False, **_NORM,
    )  # fmt: skip
    return normal


def modulated_norm_backward(grad: Tensor, x: Tensor, scale: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x [B, N, D], shift and scale [B, D]"""
    grad_x, sums = torch.empty_like(x), _sums(x, 4)
    device_code.gated_norm_backward[_sum_grid(x)](
        grad, grad, x, x, scale, scale, scale, grad_x, grad_x, sums, x.shape[1], 0, 0, *_strides(scale), eps,
        D=x.shape[2], BLOCK=_block(x), GATED=False, HAS_RESIDUAL=False, SAVED_INPUT=False, **_NORM_BACKWARD,
    )  # fmt: skip
    grad_shift, grad_scale, _, _ = sums.sum(1).unbind(1)
    return grad_x, grad_shift, grad_scale


def gated_norm(
    x: Tensor, y: Tensor, bias: Tensor, gate: Tensor, shift: Tensor, scale: Tensor, eps: float, *, in_place: bool
) -> tuple[Tensor, Tensor]:
    """x + gate * (y + bias), and its `modulated_norm`: x and y [B, N, D], the others [B, D] -> two of [B, N, D]"""
    moved, normal = x if in_place else torch.empty_like(x), torch.empty_like(x)
    device_code.gated_norm[_token_grid(x)](
        x, y, bias, gate, shift, scale, moved, normal, x.shape[1], *_strides(bias, gate, shift, scale), eps,
        D=x.shape[2], BLOCK=_block(x), GATED=True, **_NORM,
    )  # fmt: skip
    return moved, normal


def gated_norm_backward(
    grad_moved: Tensor | None,
    grad_normal: Tensor,
    saved: Tensor,
    y: Tensor,
    bias: Tensor,
    gate: Tensor,
    scale: Tensor,
    eps: float,
    *,
    saved_input: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x and y [B, N, D], and of bias, gate, shift and scale [B, D].

    `saved` is x, or else the first result of `gated_norm`; `grad_moved` is that result's gradient where it has one.
    """
    grad_x, grad_y, sums = torch.empty_like(y), torch.empty_like(y), _sums(y, 4)
    device_code.gated_norm_backward[_sum_grid(y)](
        grad_normal if grad_moved is None else grad_moved, grad_normal, saved, y, bias, gate, scale,
        grad_x, grad_y, sums, y.shape[1], *_strides(bias, gate, scale), eps,
        D=y.shape[2], BLOCK=_block(y), GATED=True, HAS_RESIDUAL=grad_moved is not None, SAVED_INPUT=saved_input,
        **_NORM_BACKWARD,
    )  # fmt: skip
    grad_shift, grad_scale, along, total = sums.sum(1).unbind(1)
    return grad_x, grad_y, total * gate, along + total * bias, grad_shift, grad_scale


def gelu(y: Tensor, bias: Tensor, *, in_place: bool) -> Tensor:
    """GELU(y + bias), with the hyperbolic tangent's approximation: y [B, N, D], bias [B, D] -> [B, N, D]"""
    result = y if in_place else torch.empty_like(y)
    device_code.gelu[_column_grid(y, _COLUMNS["ROWS"])](
        y, bias, result, y.shape[1], *_strides(bias), D=y.shape[2], **_COLUMNS
    )
    return result


def gelu_backward(grad: Tensor, y: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of y [B, N, D] and bias [B, D]"""
    grad_y, sums = torch.empty_like(y), _sums(y, 1)
    device_code.gelu_backward[_column_grid(y, SUMMED_TOKENS)](
        grad, y, bias, grad_y, sums, y.shape[1], *_strides(bias),
        D=y.shape[2], **_COLUMNS_BACKWARD,
    )  # fmt: skip
    return grad_y, sums.sum(1)[:, 0]


def affine(x: Tensor, scale: Tensor, shift: Tensor, *, in_place: bool = False) -> Tensor:
    """x * scale + shift: x [B, N, D], perhaps the first D features of a wider tensor, the others [B, D] -> [B, N, D]"""
    result = x if in_place else torch.empty(x.shape, dtype=x.dtype, device=x.device)
    device_code.affine[_column_grid(x, _COLUMNS["ROWS"])](
        x, scale, shift, result, x.shape[1], x.stride(1), result.stride(1), *_strides(scale, shift),
        D=x.shape[2], **_COLUMNS,
    )  # fmt: skip
    return result


def affine_backward(grad: Tensor, x: Tensor, scale: Tensor, *, out: Tensor | None = None) -> tuple[Tensor, ...]:
    """Gradients of x [B, N, D], scale and shift [B, D]. x may be a part of a wider tensor, and so may `out`."""
    grad_x, sums = torch.empty_like(grad) if out is None else out, _sums(grad, 2)
    device_code.affine_backward[_column_grid(x, SUMMED_TOKENS)](
        grad, x, scale, grad_x, sums, x.shape[1], x.stride(1), grad_x.stride(1), *_strides(scale),
        D=x.shape[2], **_COLUMNS_BACKWARD,
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
    device_code.attention[(triton.cdiv(tokens, step), heads, batch)](
        qkv, *vectors, result, *_strides(*vectors), 1.4426950408889634 / d**0.5,
        TOKENS=tokens, D=width // 3, HEAD=d, LOW=low, HIGH=high, QUERIES=step, KEYS=step,
        num_warps=8 if step == MAX_SCORES else 4, num_stages=2,
    )  # fmt: skip
    return result


def _block(x: Tensor) -> int:
    block: int = triton.next_power_of_2(x.shape[2])
    return block


def _token_grid(x: Tensor) -> tuple[int, int]:
    return triton.cdiv(x.shape[1], _NORM["ROWS"]), x.shape[0]


def _sum_grid(x: Tensor) -> tuple[int, int]:
    return triton.cdiv(x.shape[1], SUMMED_TOKENS), x.shape[0]


def _column_grid(x: Tensor, rows: int) -> tuple[int, int, int]:
    return triton.cdiv(x.shape[2], COLUMNS), triton.cdiv(x.shape[1], rows), x.shape[0]


def _sums(x: Tensor, kinds: int) -> Tensor:
    """[B, parts, kinds, D] for the sums of each program"""
    return torch.empty(x.shape[0], _sum_grid(x)[0], kinds, x.shape[2], dtype=torch.float32, device=x.device)


def _strides(*vectors: Tensor) -> tuple[Any, ...]:
    return tuple(vector.stride(0) for vector in vectors)
