"""The fused operations in plain PyTorch, with the same functions as `triton_kernels`: for CPUs, and as the reference
for the Triton kernels.

On a CPU a batch is processed in parts, so that intermediate results stay in the cache.

Letters in shapes: B images, N tokens, D features, C channels, H x W pixels.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from core.ml.model.functions import image_parts

_SLOPE = 2 * math.sqrt(2 / math.pi)
_CUBE = 0.044715
_PART = 2**16
"""Number of values in one part."""
FP8 = torch.float8_e4m3fn
LARGEST_FP8 = torch.finfo(FP8).max
SMALLEST_SCALE = 1e-12
"""Scale of a row of zeros, in place of 0."""


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """Returns LayerNorm(x) * scale + shift: x [B, N, D], shift and scale [B, D] -> [B, N, D]."""
    return torch.addcmul(wide(shift, x), F.layer_norm(x, x.shape[-1:], eps=eps), wide(scale, x))


def modulated_norm_backward(grad: Tensor, x: Tensor, scale: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of x [B, N, D], shift and scale [B, D]."""
    grad_x, grad_shift, grad_scale = torch.empty_like(x), [], []
    wide_scale = wide(scale, x)
    for part in image_parts(x):
        part_x, shifts, scales = _norm_backward(grad[part], x[part], wide_scale[part], eps)
        grad_x[part] = part_x
        grad_shift.append(shifts)
        grad_scale.append(scales)
    return grad_x, torch.cat(grad_shift), torch.cat(grad_scale)


def gated_norm(
    x: Tensor, y: Tensor, bias: Tensor | None, gate: Tensor, shift: Tensor, scale: Tensor, eps: float, *, in_place: bool
) -> tuple[Tensor, Tensor]:
    """Returns x + gate * (y + bias), and the `modulated_norm` of that sum: x and y [B, N, D], the others [B, D] -> two
    of [B, N, D]."""
    y = y if bias is None else y + wide(bias, y)
    moved = x.addcmul_(wide(gate, x), y) if in_place else torch.addcmul(x, wide(gate, x), y)
    return moved, modulated_norm(moved, shift, scale, eps)


def gated_norm_backward(
    grad_moved: Tensor | None,
    grad_normal: Tensor,
    saved: Tensor,
    y: Tensor,
    bias: Tensor | None,
    gate: Tensor,
    scale: Tensor,
    eps: float,
    *,
    saved_input: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor, Tensor]:
    """Returns the gradients of x and y [B, N, D], and of bias, gate, shift and scale [B, D].

    `saved` is x if `saved_input`, or else the first result of `gated_norm`. `grad_moved` is the gradient of that
    result, or None if it has none.
    """
    grad_x, grad_y, sums = torch.empty_like(y), torch.empty_like(y), []
    wide_gate, wide_scale = wide(gate, y), wide(scale, y)
    for part in image_parts(y):
        moved = saved[part]
        if saved_input:
            moved = torch.addcmul(moved, wide_gate[part], y[part] if bias is None else y[part] + wide(bias, y)[part])
        grad, shifts, scales = _norm_backward(grad_normal[part], moved, wide_scale[part], eps)
        if grad_moved is not None:
            grad = grad.add_(grad_moved[part])
        grad_x[part] = grad
        torch.mul(grad, wide_gate[part], out=grad_y[part])
        total = shifts if bias is None else grad.sum(1)
        sums.append((shifts, scales, (grad * y[part]).sum(1), total))
    grad_shift, grad_scale, along, total = (torch.cat(kind) for kind in zip(*sums, strict=True))
    if bias is None:
        return grad_x, grad_y, None, along, grad_shift, grad_scale
    return grad_x, grad_y, total * gate, along + total * bias, grad_shift, grad_scale


def gelu(y: Tensor, bias: Tensor | None, *, in_place: bool) -> Tensor:
    """Returns GELU(y + bias) in the tanh approximation: y [B, N, D], bias [B, D] -> [B, N, D].

    On a CPU it computes 0.5 (1 + tanh z) as the logistic function of 2 z, which is more than twice as fast; not in
    bf16, in which the intermediate results would be rounded.
    """
    y = y if bias is None else y + wide(bias, y)
    if not _by_logistic(y):
        return F.gelu(y, approximate="tanh")
    if in_place:
        return y.mul_(_logistic(y))
    result = torch.empty_like(y)
    for some, into in zip(_lines(y), _lines(result), strict=True):
        torch.mul(some, _logistic(some), out=into)
    return result


def gelu_backward(grad: Tensor, y: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Returns the gradients of y [B, N, D] and bias [B, D]."""
    x = y if bias is None else y + wide(bias, y)
    if _by_logistic(x):
        grad_y = torch.empty_like(x)
        for some, some_grad, into in zip(_lines(x), _lines(grad), _lines(grad_y), strict=True):
            logistic = _logistic(some)
            # d (x s) = s + x s (1 - s) (2 z)', and (2 z)' = slope (1 + 3 cube x^2)
            inner = torch.addcmul(x.new_tensor(_SLOPE), some, some, value=3 * _CUBE * _SLOPE).mul_(some)
            inner.addcmul_(inner, logistic, value=-1)
            torch.mul(some_grad, logistic.addcmul_(inner, logistic), out=into)
    else:
        grad_y = torch.ops.aten.gelu_backward(grad, x, approximate="tanh")
    return grad_y, None if bias is None else grad_y.sum(1)


def affine(x: Tensor, scale: Tensor, shift: Tensor, *, in_place: bool = False) -> Tensor:
    """Returns x * scale + shift: x [B, N, D], which may be a slice of a wider tensor, the others [B, D] -> [B, N,
    D]."""
    if in_place and not torch.compiler.is_compiling():  # writing to new memory takes twice as long
        return torch.addcmul(wide(shift, x), x, wide(scale, x), out=x)
    return torch.addcmul(wide(shift, x), x, wide(scale, x))


def affine_backward(
    grad: Tensor, x: Tensor, scale: Tensor, *, out: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of x [B, N, D], scale and shift [B, D]. x may be a slice of a wider tensor, and so may
    `out`, into which the gradient of x is written."""
    grad_x, sums = torch.empty_like(grad) if out is None else out, []
    wide_scale = wide(scale, x)
    for part in image_parts(x):
        sums.append(((grad[part] * x[part]).sum(1), grad[part].sum(1)))
        grad_x[part] = grad[part] * wide_scale[part]
    grad_scale, grad_shift = (torch.cat(kind) for kind in zip(*sums, strict=True))
    return grad_x, grad_scale, grad_shift


def query_backward(
    grad_query: Tensor, grad_key: Tensor, grad_value: Tensor, qkv: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of qkv [B, N, 3 D], and of the query's scale and shift [B, D], from the gradients of the
    scaled and shifted query, the key and the value [B, N, D]."""
    grad_qkv = torch.empty_like(qkv)
    into_query, into_key, into_value = grad_qkv.chunk(3, dim=-1)
    _, grad_scale, grad_shift = affine_backward(grad_query, qkv.chunk(3, dim=-1)[0], scale, out=into_query)
    into_key.copy_(grad_key)
    into_value.copy_(grad_value)
    return grad_qkv, grad_scale, grad_shift


def quantized(x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns x [M, D] divided by a scale per row, in fp8, and these scales [M, 1] in fp32, with which a row's largest
    value becomes the largest number of fp8."""
    scale = (x.abs().amax(1, keepdim=True).float() / LARGEST_FP8).clamp(min=SMALLEST_SCALE)
    return (x.float() / scale).to(FP8), scale


def group_norm_silu(
    x: Tensor,
    shift: Tensor,
    scale: Tensor,
    groups: int,
    eps: float,
    *,
    bias: Tensor | None = None,
    sums: None = None,  # noqa: ARG001  never given here
) -> Tensor:
    """Returns SiLU(GroupNorm(x + bias) * scale + shift): x [B, C, H, W], the others [C]."""
    y = x if bias is None else x + bias[:, None, None]
    return F.silu(F.group_norm(y, groups, scale, shift, eps), inplace=True)


def add(x: Tensor, y: Tensor, bias: Tensor) -> tuple[Tensor, None]:
    """Returns x + y + bias, without sums: x and y [B, C, H, W], bias [C]."""
    return x + y + bias[:, None, None], None


def interleave(phases: Tensor, bias: Tensor) -> tuple[Tensor, None]:
    """Returns an image plus the bias, without sums, from the four phases of the image: phases [B, 4 C, H + 1, W + 1],
    bias [C] -> [B, C, 2 H, 2 W]. Pixel (2 i + p, 2 j + q) is that of phase 2 p + q at (i + p, j + q)."""
    batch, channels, height, width = phases.shape
    image = phases.new_empty(batch, channels // 4, 2 * height - 2, 2 * width - 2)
    for index, phase in enumerate(phases.chunk(4, dim=1)):
        p, q = divmod(index, 2)
        image[:, :, p::2, q::2] = phase[:, :, p : p + height - 1, q : q + width - 1]
    return image + bias[:, None, None], None


def _norm_backward(grad: Tensor, x: Tensor, scale: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of x [b, N, D], shift and scale [b, D], for scale [b, 1, D] and a part of b images."""
    shape = x.shape[-1:]
    normal, mean, inverse = torch.native_layer_norm(x, shape, None, None, eps)
    needed = [True, False, False]
    grad_x, _, _ = torch.ops.aten.native_layer_norm_backward(grad * scale, x, shape, mean, inverse, None, None, needed)
    return grad_x, grad.sum(1), (grad * normal).sum(1)


def _by_logistic(x: Tensor) -> bool:
    return x.is_cpu and x.dtype != torch.bfloat16


def _logistic(x: Tensor) -> Tensor:
    """Returns the factor 0.5 (1 + tanh z) of the GELU, where z = sqrt(2 / pi) (x + 0.044715 x^3). Computes it as the
    logistic function of 2 z."""
    return torch.addcmul(x.new_tensor(_SLOPE), x, x, value=_CUBE * _SLOPE).mul_(x).sigmoid_()


def _lines(x: Tensor) -> tuple[Tensor, ...]:
    """Splits a tensor [..., D] into parts [n, D] of about `_PART` values."""
    lines = x.reshape(-1, x.shape[-1])
    if torch.compiler.is_compiling():
        return (lines,)  # Inductor fuses the operations anyway
    parts: tuple[Tensor, ...] = lines.split(max(1, _PART // x.shape[-1]))
    return parts


def wide(vector: Tensor, like: Tensor) -> Tensor:
    """Reshapes vectors [B, D] to [B, 1, D], which broadcasts over tokens, in the dtype of `like`."""
    return vector.to(like.dtype).unsqueeze(1)
