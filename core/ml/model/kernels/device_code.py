"""Triton kernels of the fused operations; `triton_kernels` launches them.

All arithmetic is fp32. Triton compiles these functions from their source: compile-time constants are in capitals, and
other parameters have no types. A parameter that ends in `_at` is a pointer.

Letters in comments: B images, N tokens, D features.
"""

import triton
import triton.language as tl


@triton.jit
def _normalized(x, inside, D, eps):
    """Returns the normalized rows of x [ROWS, BLOCK], zero in columns beyond the D features, and 1 / deviation
    [ROWS]."""
    mean = tl.sum(x, 1) / D
    centered = tl.where(inside, x - mean[:, None], 0.0)
    inverse = 1 / tl.sqrt(tl.sum(centered * centered, 1) / D + eps)
    return centered * inverse[:, None], inverse


@triton.jit
def _vector(pointer, image, stride, columns, inside):
    return tl.load(pointer + image * stride + columns, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def gated_norm(
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
def gated_norm_backward(
    grad_moved_at, grad_normal_at, saved_at, y_at, bias_at, gate_at, scale_at, grad_x_at, grad_y_at, sums_at,
    tokens, bias_stride, gate_stride, scale_stride, eps,
    D: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, TOKENS: tl.constexpr,
    GATED: tl.constexpr, HAS_RESIDUAL: tl.constexpr, SAVED_INPUT: tl.constexpr,
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
        bias = _vector(bias_at, image, bias_stride, columns, inside)
    for start in range(0, TOKENS, ROWS):
        rows = part * TOKENS + start + tl.arange(0, ROWS)
        mask = (rows < tokens)[:, None] & inside[None, :]
        at = (image * tokens + rows)[:, None] * D + columns[None, :]
        grad = tl.load(grad_normal_at + at, mask=mask, other=0.0).to(tl.float32)
        moved = tl.load(saved_at + at, mask=mask, other=0.0).to(tl.float32)
        if GATED:
            y = tl.load(y_at + at, mask=mask, other=0.0).to(tl.float32)
            if SAVED_INPUT:
                moved += gate[None, :] * (y + bias[None, :])
                moved = moved.to(saved_at.dtype.element_ty).to(tl.float32)  # as the forward pass stored it
        normal, inverse = _normalized(moved, inside[None, :], D, eps)
        sum_shift += tl.sum(grad, 0)
        sum_scale += tl.sum(grad * normal, 0)
        grad *= scale[None, :]
        # Gradient of LayerNorm: `grad` minus its mean and minus its projection onto the normalized x
        along = tl.sum(grad * normal, 1) / D
        grad = (grad - (tl.sum(grad, 1) / D)[:, None] - normal * along[:, None]) * inverse[:, None]
        if HAS_RESIDUAL:
            grad += tl.load(grad_moved_at + at, mask=mask, other=0.0).to(tl.float32)
        grad = tl.where(mask, grad, 0.0)
        tl.store(grad_x_at + at, grad, mask=mask)
        if GATED:
            sum_along += tl.sum(grad * y, 0)
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
    """Returns the factor 0.5 (1 + tanh z) of the GELU, where z = sqrt(2 / pi) (x + 0.044715 x^3). Computes it as the
    logistic function of 2 z."""
    return tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))


@triton.jit
def gelu(y_at, bias_at, result_at, tokens, bias_stride, D: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr):
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
def gelu_backward(
    grad_at, y_at, bias_at, grad_y_at, sums_at, tokens, bias_stride,
    D: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    part, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < D
    bias = _vector(bias_at, image, bias_stride, columns, inside)
    sum_bias = tl.zeros([ROWS, BLOCK], tl.float32)
    for start in range(0, TOKENS, ROWS):
        rows = part * TOKENS + start + tl.arange(0, ROWS)
        mask = (rows < tokens)[:, None] & inside[None, :]
        at = (image * tokens + rows)[:, None] * D + columns[None, :]
        x = tl.load(y_at + at, mask=mask, other=0.0).to(tl.float32) + bias[None, :]
        s = _logistic(x)
        # d (x s) = s + x s (1 - s) (2 z)', and (2 z)' = sqrt(8 / pi) (1 + 3 * 0.044715 x^2)
        slope = s + x * s * (1 - s) * 1.5957691216057308 * (1 + 0.134145 * x * x)
        grad = tl.load(grad_at + at, mask=mask, other=0.0).to(tl.float32) * slope
        sum_bias += grad
        tl.store(grad_y_at + at, grad, mask=mask)
    tl.store(sums_at + (image * tl.num_programs(1) + part) * D + columns, tl.sum(sum_bias, 0), mask=inside)


@triton.jit
def affine(
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
def affine_backward(
    grad_at, grad_key_at, grad_value_at, x_at, scale_at, grad_x_at, sums_at,
    tokens, x_stride, grad_x_stride, scale_stride,
    D: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, TOKENS: tl.constexpr, IS_QUERY: tl.constexpr,
):  # fmt: skip
    part, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < D
    scale = _vector(scale_at, image, scale_stride, columns, inside)
    sum_scale = tl.zeros([ROWS, BLOCK], tl.float32)
    sum_shift = tl.zeros([ROWS, BLOCK], tl.float32)
    for start in range(0, TOKENS, ROWS):
        rows = part * TOKENS + start + tl.arange(0, ROWS)
        mask = (rows < tokens)[:, None] & inside[None, :]
        lines = (image * tokens + rows)[:, None]
        at = lines * D + columns[None, :]
        into = lines * grad_x_stride + columns[None, :]
        x = tl.load(x_at + lines * x_stride + columns[None, :], mask=mask, other=0.0).to(tl.float32)
        grad = tl.load(grad_at + at, mask=mask, other=0.0).to(tl.float32)
        if IS_QUERY:  # the gradients of key and value are copied to where they follow that of the query
            grad_key = tl.load(grad_key_at + at, mask=mask, other=0.0)
            grad_value = tl.load(grad_value_at + at, mask=mask, other=0.0)
            tl.store(grad_x_at + into + D, grad_key, mask=mask)
            tl.store(grad_x_at + into + 2 * D, grad_value, mask=mask)
        sum_scale += grad * x
        sum_shift += grad
        tl.store(grad_x_at + into, grad * scale[None, :], mask=mask)
    sums_into = sums_at + (image * tl.num_programs(1) + part) * 2 * D + columns
    tl.store(sums_into, tl.sum(sum_scale, 0), mask=inside)
    tl.store(sums_into + D, tl.sum(sum_shift, 0), mask=inside)


@triton.jit
def quantized(
    x_at, values_at, scales_at, count, largest, smallest_scale,
    D: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    columns = tl.arange(0, BLOCK)
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = rows < count
    mask = inside[:, None] & (columns < D)[None, :]
    at = rows[:, None] * D + columns[None, :]
    x = tl.load(x_at + at, mask=mask, other=0.0).to(tl.float32)
    scales = tl.maximum(tl.max(tl.abs(x), 1) / largest, smallest_scale)
    tl.store(values_at + at, x / scales[:, None], mask=mask)
    tl.store(scales_at + rows, scales, mask=inside)
