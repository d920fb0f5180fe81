"""Triton kernels of the fused decoder; `triton_kernels` launches them. The conventions are those of `device_code`.

Images are channels_last: the C channels of a pixel are adjacent. A GroupNorm takes two passes. The kernel that writes
an image also sums its channels, each program over its own part of the pixels. `group_affine` makes of the sums a scale
and a shift per channel, which `affine_silu` applies.

The sums are of the differences from the image's first pixel, and of their squares. Without that, the variance of
channels whose mean is much larger than their deviation would be lost in rounding.

Offsets of an image and of a part are 64-bit integers, since a batch of large images has more than 2^31 values.
"""

import triton
import triton.language as tl


@triton.jit
def _vector(pointer, channels, inside):
    return tl.load(pointer + channels, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _added(total, squares, x, first, mask):
    """Returns the sums plus the differences of x from the image's first pixel, and plus their squares."""
    difference = tl.where(mask, x - first[None, :], 0.0)
    return total + difference, squares + difference * difference


@triton.jit
def _store_sums(sums_at, image, part, total, squares, channels, inside, C: tl.constexpr):
    into = sums_at + (image * tl.num_programs(0) + part) * 2 * C + channels
    tl.store(into, tl.sum(total, 0), mask=inside)
    tl.store(into + C, tl.sum(squares, 0), mask=inside)


@triton.jit
def channel_sums(x_at, sums_at, pixels, part_pixels, C: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr):
    part, image = tl.program_id(0), tl.program_id(1).to(tl.int64)
    channels = tl.arange(0, BLOCK)
    inside = channels < C
    x_at += image * pixels * C
    first = _vector(x_at, channels, inside)
    begin = part * part_pixels
    x_at += begin.to(tl.int64) * C
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    squares = tl.zeros([ROWS, BLOCK], tl.float32)
    for start in range(0, part_pixels, ROWS):
        rows = start + tl.arange(0, ROWS)
        mask = (begin + rows < pixels)[:, None] & inside[None, :]
        x = tl.load(x_at + rows[:, None] * C + channels[None, :], mask=mask, other=0.0).to(tl.float32)
        total, squares = _added(total, squares, x, first, mask)
    _store_sums(sums_at, image, part, total, squares, channels, inside, C)


@triton.jit
def add(
    x_at, y_at, bias_at, result_at, sums_at, pixels, part_pixels,
    C: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    part, image = tl.program_id(0), tl.program_id(1).to(tl.int64)
    channels = tl.arange(0, BLOCK)
    inside = channels < C
    x_at += image * pixels * C
    y_at += image * pixels * C
    bias = _vector(bias_at, channels, inside)
    first = _vector(x_at, channels, inside) + _vector(y_at, channels, inside) + bias
    first = first.to(result_at.dtype.element_ty).to(tl.float32)
    begin = part * part_pixels
    x_at += begin.to(tl.int64) * C
    y_at += begin.to(tl.int64) * C
    result_at += (image * pixels + begin) * C
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    squares = tl.zeros([ROWS, BLOCK], tl.float32)
    for start in range(0, part_pixels, ROWS):
        rows = start + tl.arange(0, ROWS)
        mask = (begin + rows < pixels)[:, None] & inside[None, :]
        at = rows[:, None] * C + channels[None, :]
        x = tl.load(x_at + at, mask=mask, other=0.0).to(tl.float32)
        y = tl.load(y_at + at, mask=mask, other=0.0).to(tl.float32)
        result = (x + y + bias[None, :]).to(result_at.dtype.element_ty)
        tl.store(result_at + at, result, mask=mask)
        total, squares = _added(total, squares, result.to(tl.float32), first, mask)
    _store_sums(sums_at, image, part, total, squares, channels, inside, C)


@triton.jit
def interleave(
    phases_at, bias_at, result_at, sums_at, pixels, part_pixels, width,
    C: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    part, image = tl.program_id(0), tl.program_id(1).to(tl.int64)
    channels = tl.arange(0, BLOCK)
    inside = channels < C
    across = width // 2 + 1  # positions in a line of the phases
    phases_at += image * (pixels // width // 2 + 1) * across * 4 * C
    bias = _vector(bias_at, channels, inside)
    first = _vector(phases_at, channels, inside) + bias
    first = first.to(result_at.dtype.element_ty).to(tl.float32)
    begin = part * part_pixels
    result_at += (image * pixels + begin) * C
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    squares = tl.zeros([ROWS, BLOCK], tl.float32)
    for start in range(0, part_pixels, ROWS):
        rows = start + tl.arange(0, ROWS)
        mask = (begin + rows < pixels)[:, None] & inside[None, :]
        line, column = (begin + rows) // width, (begin + rows) % width
        source = ((line + 1) // 2 * across + (column + 1) // 2) * 4 + line % 2 * 2 + column % 2
        at = source.to(tl.int64)[:, None] * C + channels[None, :]
        phase = tl.load(phases_at + at, mask=mask, other=0.0).to(tl.float32)
        result = (phase + bias[None, :]).to(result_at.dtype.element_ty)
        tl.store(result_at + rows[:, None] * C + channels[None, :], result, mask=mask)
        total, squares = _added(total, squares, result.to(tl.float32), first, mask)
    _store_sums(sums_at, image, part, total, squares, channels, inside, C)


@triton.jit
def group_affine(
    sums_at, x_at, bias_at, scale_at, shift_at, affine_at, pixels, parts, eps,
    C: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    group, image = tl.program_id(0), tl.program_id(1).to(tl.int64)
    inside = tl.arange(0, BLOCK) < SIZE
    channels = group * SIZE + tl.arange(0, BLOCK)
    part = tl.arange(0, PARTS)
    mask = (part < parts)[:, None] & inside[None, :]
    at = sums_at + (image * parts + part)[:, None] * 2 * C + channels[None, :]
    total = tl.sum(tl.load(at, mask=mask, other=0.0), 0)
    squares = tl.sum(tl.load(at + C, mask=mask, other=0.0), 0)
    first = _vector(x_at + image * pixels * C, channels, inside)
    if HAS_BIAS:
        bias = _vector(bias_at, channels, inside)
        first += bias
    mean = tl.sum(tl.where(inside, first + total / pixels, 0.0), 0) / SIZE
    # Sum of (x - mean)^2, where x - mean = (x - first) - offset
    offset = mean - first
    deviations = tl.where(inside, squares - 2 * offset * total + pixels * offset * offset, 0.0)
    variance = tl.maximum(tl.sum(deviations, 0) / pixels / SIZE, 0.0)
    scale = _vector(scale_at, channels, inside) / tl.sqrt(variance + eps)
    shift = -mean
    if HAS_BIAS:
        shift += bias
    into = affine_at + image * 2 * C + channels
    tl.store(into, scale, mask=inside)
    tl.store(into + C, _vector(shift_at, channels, inside) + shift * scale, mask=inside)


@triton.jit
def affine_silu(
    x_at, affine_at, result_at, pixels,
    C: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    begin, image = tl.program_id(0) * PIXELS, tl.program_id(1).to(tl.int64)
    channels = tl.arange(0, BLOCK)
    inside = channels < C
    scale = _vector(affine_at + image * 2 * C, channels, inside)
    shift = _vector(affine_at + image * 2 * C + C, channels, inside)
    x_at += (image * pixels + begin) * C
    result_at += (image * pixels + begin) * C
    for start in range(0, PIXELS, ROWS):
        rows = start + tl.arange(0, ROWS)
        mask = (begin + rows < pixels)[:, None] & inside[None, :]
        at = rows[:, None] * C + channels[None, :]
        x = tl.load(x_at + at, mask=mask, other=0.0).to(tl.float32) * scale[None, :] + shift[None, :]
        tl.store(result_at + at, x * tl.sigmoid(x), mask=mask)
