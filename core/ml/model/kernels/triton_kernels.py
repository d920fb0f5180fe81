"""The fused operations in Triton. Each kernel reads and writes every tensor of tokens only once.

Tensors of tokens are contiguous, [B, N, D]. Vectors are [B, D] with any stride over images, 0 included, and stride 1
over features. All arithmetic is fp32. Gradients that are summed over tokens are summed in a fixed order: each program
writes the sums over its own tokens, [B, parts, kinds, D], and PyTorch adds the parts.

Letters in shapes: B images, N tokens, D features.
"""

from typing import Any

import torch
import triton
from torch import Tensor

from core.ml.model.kernels import device_code
from core.ml.model.kernels.plain import FP8, LARGEST_FP8, SMALLEST_SCALE

SUMMED_TOKENS = 32
"""Number of tokens over which one program sums gradients, in kernels that compute each feature independently."""

# ROWS: tokens that a program holds at once; TOKENS: tokens that it processes. The fastest on an H200 for DiT-XL/2.
_NORM = {"ROWS": 4, "num_warps": 8}
_NORM_BACKWARD = {"ROWS": 2, "TOKENS": 16, "num_warps": 4}
_TILE = 4096
"""Number of values that one program holds at once in kernels that compute each feature independently; half as many in
the backward pass."""


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """Returns LayerNorm(x) * scale + shift: x [B, N, D], shift and scale [B, D] -> [B, N, D]."""
    normal = torch.empty_like(x)
    device_code.gated_norm[_grid(x, _NORM["ROWS"])](
        x, x, shift, shift, shift, scale, x, normal, x.shape[1], 0, 0, *_strides(shift, scale), eps,
        D=x.shape[2], BLOCK=_block(x), GATED=False, **_NORM,
    )  # fmt: skip
    return normal


def modulated_norm_backward(grad: Tensor, x: Tensor, scale: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of x [B, N, D], shift and scale [B, D]."""
    grad_x, sums = torch.empty_like(x), _sums(x, 4, _NORM_BACKWARD["TOKENS"])
    device_code.gated_norm_backward[_grid(x, _NORM_BACKWARD["TOKENS"])](
        grad, grad, x, x, scale, scale, scale, grad_x, grad_x, sums, x.shape[1], 0, 0, *_strides(scale), eps,
        D=x.shape[2], BLOCK=_block(x), GATED=False, HAS_RESIDUAL=False, SAVED_INPUT=False, **_NORM_BACKWARD,
    )  # fmt: skip
    grad_shift, grad_scale, _, _ = sums.sum(1).unbind(1)
    return grad_x, grad_shift, grad_scale


def gated_norm(
    x: Tensor, y: Tensor, bias: Tensor, gate: Tensor, shift: Tensor, scale: Tensor, eps: float, *, in_place: bool
) -> tuple[Tensor, Tensor]:
    """Returns x + gate * (y + bias), and the `modulated_norm` of that sum: x and y [B, N, D], the others [B, D] -> two
    of [B, N, D]."""
    moved, normal = x if in_place else torch.empty_like(x), torch.empty_like(x)
    device_code.gated_norm[_grid(x, _NORM["ROWS"])](
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
    """Returns the gradients of x and y [B, N, D], and of bias, gate, shift and scale [B, D].

    `saved` is x if `saved_input`, or else the first result of `gated_norm`. `grad_moved` is the gradient of that
    result, or None if it has none.
    """
    grad_x, grad_y, sums = torch.empty_like(y), torch.empty_like(y), _sums(y, 4, _NORM_BACKWARD["TOKENS"])
    device_code.gated_norm_backward[_grid(y, _NORM_BACKWARD["TOKENS"])](
        grad_normal if grad_moved is None else grad_moved, grad_normal, saved, y, bias, gate, scale,
        grad_x, grad_y, sums, y.shape[1], *_strides(bias, gate, scale), eps,
        D=y.shape[2], BLOCK=_block(y), GATED=True, HAS_RESIDUAL=grad_moved is not None, SAVED_INPUT=saved_input,
        **_NORM_BACKWARD,
    )  # fmt: skip
    grad_shift, grad_scale, along, total = sums.sum(1).unbind(1)
    return grad_x, grad_y, total * gate, along + total * bias, grad_shift, grad_scale


def gelu(y: Tensor, bias: Tensor, *, in_place: bool) -> Tensor:
    """Returns GELU(y + bias) in the tanh approximation: y [B, N, D], bias [B, D] -> [B, N, D]."""
    result = y if in_place else torch.empty_like(y)
    grid, tile = _columns(y, _TILE)
    device_code.gelu[grid](y, bias, result, y.shape[1], *_strides(bias), **tile)
    return result


def gelu_backward(grad: Tensor, y: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the gradients of y [B, N, D] and bias [B, D]."""
    grad_y, sums = torch.empty_like(y), _sums(y, 1)
    grid, tile = _columns(y, _TILE // 2, SUMMED_TOKENS)
    device_code.gelu_backward[grid](
        grad, y, bias, grad_y, sums, y.shape[1], *_strides(bias),
        TOKENS=SUMMED_TOKENS, **tile,
    )  # fmt: skip
    return grad_y, sums.sum(1)[:, 0]


def affine(x: Tensor, scale: Tensor, shift: Tensor, *, in_place: bool = False) -> Tensor:
    """Returns x * scale + shift: x [B, N, D], which may be the first D features of a wider tensor, the others [B, D] ->
    [B, N, D]."""
    result = x if in_place else torch.empty(x.shape, dtype=x.dtype, device=x.device)
    grid, tile = _columns(x, _TILE)
    device_code.affine[grid](
        x, scale, shift, result, x.shape[1], x.stride(1), result.stride(1), *_strides(scale, shift),
        **tile,
    )  # fmt: skip
    return result


def affine_backward(grad: Tensor, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of x [B, N, D], scale and shift [B, D]. x may be a slice of a wider tensor."""
    return _affine_backward((grad, grad, grad), x, scale, torch.empty_like(grad), is_query=False)


def query_backward(
    grad_query: Tensor, grad_key: Tensor, grad_value: Tensor, qkv: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of qkv [B, N, 3 D], and of the query's scale and shift [B, D], from the gradients of the
    scaled and shifted query, the key and the value [B, N, D]."""
    x = qkv.chunk(3, dim=-1)[0]
    return _affine_backward((grad_query, grad_key, grad_value), x, scale, torch.empty_like(qkv), is_query=True)


def quantized(x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns x [M, D] divided by a scale per row, in fp8, and these scales [M, 1] in fp32."""
    values, scales = torch.empty_like(x, dtype=FP8), torch.empty(len(x), 1, dtype=torch.float32, device=x.device)
    block: int = triton.next_power_of_2(x.shape[1])
    rows = max(1, _TILE // block)
    device_code.quantized[(triton.cdiv(len(x), rows),)](
        x, values, scales, len(x), LARGEST_FP8, SMALLEST_SCALE, D=x.shape[1], BLOCK=block, ROWS=rows, num_warps=8,
    )  # fmt: skip
    return values, scales


def _affine_backward(
    grads: tuple[Tensor, Tensor, Tensor], x: Tensor, scale: Tensor, grad_x: Tensor, *, is_query: bool
) -> tuple[Tensor, Tensor, Tensor]:
    sums = _sums(grads[0], 2)
    grid, tile = _columns(x, _TILE // 2, SUMMED_TOKENS)
    device_code.affine_backward[grid](
        *grads, x, scale, grad_x, sums, x.shape[1], x.stride(1), grad_x.stride(1), *_strides(scale),
        TOKENS=SUMMED_TOKENS, IS_QUERY=is_query, **tile,
    )  # fmt: skip
    grad_scale, grad_shift = sums.sum(1).unbind(1)
    return grad_x, grad_scale, grad_shift


def _block(x: Tensor) -> int:
    block: int = triton.next_power_of_2(x.shape[2])
    return block


def _grid(x: Tensor, tokens: int) -> tuple[int, int]:
    """Returns the launch grid (parts, images): each program processes `tokens` tokens of one image."""
    return triton.cdiv(x.shape[1], tokens), x.shape[0]


def _columns(x: Tensor, numbers: int, tokens: int | None = None) -> tuple[tuple[int, int, int], dict[str, int]]:
    """Returns the launch grid and the tile of a kernel that computes each feature independently. A program holds
    `numbers` values at once. The tile's number of features is a power of two from 64 to 512, which divides D if
    possible. A program processes `tokens` tokens, or as many as one tile holds if `tokens` is None."""
    d = x.shape[2]
    block = min(512, max(64, d & -d))
    rows = numbers // block
    grid = triton.cdiv(d, block), triton.cdiv(x.shape[1], tokens or rows), x.shape[0]
    return grid, {"D": d, "BLOCK": block, "ROWS": min(rows, tokens or rows), "num_warps": 4}


def _sums(x: Tensor, kinds: int, tokens: int = SUMMED_TOKENS) -> Tensor:
    """Allocates [B, parts, kinds, D] in fp32 for the sums of the programs, each of which processes `tokens` tokens."""
    shape = x.shape[0], triton.cdiv(x.shape[1], tokens), kinds, x.shape[2]
    return torch.empty(shape, dtype=torch.float32, device=x.device)


def _strides(*vectors: Tensor) -> tuple[Any, ...]:
    return tuple(vector.stride(0) for vector in vectors)
