"""The fused operations in Triton. Each kernel reads and writes every tensor of tokens or pixels only once.

Tensors of tokens are contiguous, [B, N, D]. Vectors are [B, D] with any stride over images, 0 included, and stride 1
over features. All arithmetic is fp32. Gradients that are summed over tokens are summed in a fixed order: each program
writes the sums over its own tokens, [B, parts, kinds, D], and PyTorch adds the parts.

Images are channels_last, and vectors of their channels contiguous.

Letters in shapes: B images, N tokens, D features, C channels, H x W pixels.
"""

from typing import Any

import torch
import triton
from torch import Tensor

from core.ml.model.kernels import decoder_device_code, device_code
from core.ml.model.kernels.plain import FP8, LARGEST_FP8, SMALLEST_SCALE

SUMMED_TOKENS = 32
"""Number of tokens over which one program sums gradients, in kernels that compute each feature independently."""

# ROWS: tokens that a program holds at once; TOKENS: tokens that it processes. The fastest on an H200 for DiT-XL/2.
_NORM = {"ROWS": 4, "num_warps": 8}
_NORM_BACKWARD = {"ROWS": 2, "TOKENS": 16, "num_warps": 4}
_TILE = 4096
"""Number of values that one program holds at once in kernels that compute each feature independently; half as many in
the backward pass."""
_PARTS = 128
"""Maximum number of programs that sum over the pixels of one image. Fewer keep a GPU busy less well; the sums of more
take longer to add."""


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


def group_norm_silu(
    x: Tensor,
    shift: Tensor,
    scale: Tensor,
    groups: int,
    eps: float,
    *,
    bias: Tensor | None = None,
    sums: Tensor | None = None,
) -> Tensor:
    """Returns SiLU(GroupNorm(x + bias) * scale + shift): x [B, C, H, W], the others [C]. `sums` are the `channel_sums`
    of x, which are computed if None. With a bias it writes the result into x."""
    batch, channels, height, width = x.shape
    sums = channel_sums(x) if sums is None else sums
    affine = torch.empty(batch, 2, channels, dtype=torch.float32, device=x.device)
    size = channels // groups
    decoder_device_code.group_affine[(groups, batch)](
        sums, x, shift if bias is None else bias, scale, shift, affine, height * width, sums.shape[1], eps,
        C=channels, SIZE=size, BLOCK=triton.next_power_of_2(size), PARTS=_PARTS, HAS_BIAS=bias is not None,
        num_warps=4,
    )  # fmt: skip
    result, tile = torch.empty_like(x) if bias is None else x, _pixel_tile(x)
    pixels = 4 * tile["ROWS"]
    decoder_device_code.affine_silu[(triton.cdiv(height * width, pixels), batch)](
        x, affine, result, height * width, PIXELS=pixels, **tile
    )
    return result


def channel_sums(x: Tensor) -> Tensor:
    """Returns sums over the pixels of x [B, C, H, W], [B, parts, 2, C]: of the differences from the image's first
    pixel, and of their squares. Each part has the sums over some of the pixels."""
    sums, grid, sizes = _image_sums(x)
    decoder_device_code.channel_sums[grid](x, sums, **sizes)
    return sums


def add(x: Tensor, y: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Returns x + y + bias and its `channel_sums`: x and y [B, C, H, W], bias [C]."""
    result = torch.empty_like(x)
    sums, grid, sizes = _image_sums(result)
    decoder_device_code.add[grid](x, y, bias, result, sums, **sizes)
    return result, sums


def interleave(phases: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Returns an image plus the bias, and its `channel_sums`, from the four phases of the image: phases [B, 4 C, H + 1,
    W + 1], bias [C] -> [B, C, 2 H, 2 W]. Pixel (2 i + p, 2 j + q) is that of phase 2 p + q at (i + p, j + q)."""
    batch, channels, height, width = phases.shape
    shape = batch, channels // 4, 2 * height - 2, 2 * width - 2
    result = torch.empty(shape, dtype=phases.dtype, device=phases.device, memory_format=torch.channels_last)
    sums, grid, sizes = _image_sums(result)
    decoder_device_code.interleave[grid](phases, bias, result, sums, width=shape[3], **sizes)
    return result, sums


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


def _pixel_tile(x: Tensor) -> dict[str, int]:
    """Returns the tile of a kernel whose programs hold all channels of `ROWS` pixels of x [B, C, H, W] at once."""
    block: int = triton.next_power_of_2(x.shape[1])
    return {"C": x.shape[1], "BLOCK": block, "ROWS": max(1, _TILE // block), "num_warps": 4}


def _image_sums(x: Tensor) -> tuple[Tensor, tuple[int, int], dict[str, int]]:
    """Allocates the `channel_sums` of x. Returns them with the launch grid and the sizes of a kernel that writes them.
    The parts depend on the image's size only, so that an image does not depend on its batch."""
    tile, pixels = _pixel_tile(x), x.shape[2] * x.shape[3]
    rows = tile["ROWS"]
    part_pixels = triton.cdiv(max(32, triton.cdiv(pixels, _PARTS)), rows) * rows
    parts = triton.cdiv(pixels, part_pixels)
    sums = torch.empty(x.shape[0], parts, 2, x.shape[1], dtype=torch.float32, device=x.device)
    return sums, (parts, x.shape[0]), {"pixels": pixels, "part_pixels": part_pixels, **tile}
