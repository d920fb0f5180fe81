"""The fused operations of `folded_forward`, with gradients, and of the fused decoder, without: in Triton if the tensors
are on a GPU, in plain PyTorch elsewhere.

Weights of linear layers are frozen. Every vector (bias, gate, shift, scale) is [B, D], with a row per image, and gets
its gradient in fp32. Results that are cheap to compute (a normalized activation, a GELU) are not saved but computed
again in the backward pass.

Letters in shapes: B images, N tokens, D features, C channels, H x W pixels.
"""

from functools import cache, partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from core.ml.model.functions import linear, records
from core.ml.model.kernels import plain


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """Returns LayerNorm(x) * scale + shift: x [B, N, D], shift and scale [B, D] -> [B, N, D]. Saves x and scale."""
    x = x.contiguous()  # kernels need it contiguous, but it may be a slice of the tokens
    if records(x, shift, scale):
        result: Tensor = _ModulatedNorm.apply(x, shift, scale, eps)  # type: ignore[no-untyped-call]
        return result
    return _kernels(x).modulated_norm(x, shift, scale, eps)  # type: ignore[no-any-return]


class Fp8Weight(NamedTuple):
    """Frozen weight of a linear layer in fp8. A product with it takes its input in fp8 too, with a scale per token, and
    has no gradients. A tensor core multiplies fp8 at twice the rate of bf16."""

    values: Tensor
    """[out, in]"""
    scales: Tensor
    """[out, 1] in fp32: the weight is values * scales"""

    @classmethod
    def of(cls, weight: Tensor) -> "Fp8Weight":
        return cls(*quantized(weight))


Weight = Tensor | Fp8Weight


def frozen_linear(x: Tensor, weight: Weight) -> Tensor:
    """Returns x @ weight^T: x [B, N, in], weight [out, in] -> [B, N, out]. Saves nothing."""
    if isinstance(weight, Fp8Weight):
        values, scales = quantized(x.flatten(0, 1))
        return fp8_product(values, scales, weight).to(x.dtype).view(*x.shape[:2], -1)
    return linear(x, weight, None) if torch.is_grad_enabled() else F.linear(x, weight)


def quantized(x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns x [M, K] divided by a scale per row, in fp8, and these scales [M, 1] in fp32."""
    return _kernels(x).quantized(x)  # type: ignore[no-any-return]


def fp8_product(values: Tensor, scales: Tensor, weight: Fp8Weight) -> Tensor:
    """Returns (values * scales) @ weight^T: values [M, K] in fp8, scales [M, 1], weight [N, K] -> [M, N], on a GPU in
    bf16, on a CPU in fp32."""
    if not values.is_cuda:
        return (values.float() @ weight.values.float().t()) * scales * weight.scales.t()
    of_rows = {"scale_a": scales, "scale_b": weight.scales.t()}
    result: Tensor = torch._scaled_mm(
        values, weight.values.t(), **of_rows, out_dtype=torch.bfloat16, use_fast_accum=True
    )
    return result


def linear_gated_norm(
    branch: Tensor,
    weight: Weight,
    bias: Tensor,
    gate: Tensor,
    x: Tensor,
    shift: Tensor,
    scale: Tensor,
    eps: float,
    *,
    save_input: bool = False,
) -> tuple[Tensor, Tensor]:
    """Computes the end of a residual branch and the norm that follows: returns `moved` = x + gate * (branch @ weight^T
    + bias), and LayerNorm(moved) * scale + shift, both [B, N, D].

    branch [B, N, in], weight [D, in], x [B, N, D], the others [B, D]. Saves bias, gate, scale, the product, and `moved`
    or, with `save_input`, x. In a chain of these operations, every second one can use `save_input`, since its x is the
    `moved` that the operation before saves anyway. Without gradients it writes `moved` into x.
    """
    y, rest = _product(branch, weight, bias)
    if records(x, y, bias, gate, shift, scale):
        moved, normal = _GatedNorm.apply(x, y, rest, gate, shift, scale, eps, save_input)  # type: ignore[no-untyped-call]
        return moved, normal
    return _kernels(x).gated_norm(x, y, rest, gate=gate, shift=shift, scale=scale, eps=eps, in_place=True)  # type: ignore[no-any-return]


def linear_gelu(x: Tensor, weight: Weight, bias: Tensor) -> Tensor:
    """Returns GELU(x @ weight^T + bias): x [B, N, in], weight [D, in], bias [B, D] -> [B, N, D]. Saves the product."""
    return gelu(*_product(x, weight, bias))


def gelu(y: Tensor, bias: Tensor | None = None) -> Tensor:
    """Returns GELU(y + bias) in the tanh approximation (arXiv 1606.08415): y [B, N, D], bias [B, D]. Saves y and bias.

    Without gradients it writes the result into y.
    """
    if records(y, bias):
        result: Tensor = _Gelu.apply(y, bias)  # type: ignore[no-untyped-call]
        return result
    return _with_bias(y, bias).gelu(y, bias, in_place=True)  # type: ignore[no-any-return]


def attention(
    qkv: Tensor, query_scale: Tensor, query_shift: Tensor, value_scale: Tensor, value_shift: Tensor, heads: int
) -> Tensor:
    """Returns softmax((q * query_scale + query_shift) k^T / sqrt(d)) v * value_scale + value_shift, with d features per
    head.

    qkv [B, N, 3 D], the others [B, D] -> [B, N, D]. Saves qkv, the queries and the result before the last affine step;
    without gradients it writes into qkv. It calls PyTorch's own attention between two affine steps, which was as fast
    on an H200 as a single kernel for everything (150 and 153 us for 64 images of DiT-XL/2).
    """
    kernels, is_recorded = _kernels(qkv), records(qkv, query_scale, query_shift, value_scale, value_shift)
    if is_recorded:
        q, k, v = _QueryKeyValue.apply(qkv, query_scale, query_shift)  # type: ignore[no-untyped-call]
    else:
        q, k, v = qkv.chunk(3, dim=-1)
        q = kernels.affine(q, query_scale, query_shift, in_place=True)
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v))  # each [B, heads, N, d]
    mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # [B, N, D]
    if is_recorded:
        result: Tensor = _Affine.apply(mixed, value_scale, value_shift)  # type: ignore[no-untyped-call]
        return result
    return kernels.affine(mixed, value_scale, value_shift, in_place=True)  # type: ignore[no-any-return]


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
    """Returns SiLU(GroupNorm(x + bias) * scale + shift): x [B, C, H, W], the others [C]. `sums` are those that `add` or
    `interleave` returned with x. With a bias it may overwrite x."""
    return _kernels(x).group_norm_silu(_channels_last(x), shift, scale, groups, eps, bias=bias, sums=sums)  # type: ignore[no-any-return]


def add(x: Tensor, y: Tensor, bias: Tensor) -> tuple[Tensor, Tensor | None]:
    """Returns x + y + bias, and its sums for `group_norm_silu`: x and y [B, C, H, W], bias [C]. There are no sums on a
    CPU."""
    return _kernels(x).add(_channels_last(x), _channels_last(y), bias)  # type: ignore[no-any-return]


def interleave(phases: Tensor, bias: Tensor) -> tuple[Tensor, Tensor | None]:
    """Returns an image plus the bias, and its sums as `add` does, from the four phases of the image: phases [B, 4 C, H
    + 1, W + 1], bias [C] -> [B, C, 2 H, 2 W]. Pixel (2 i + p, 2 j + q) is that of phase 2 p + q at (i + p, j + q)."""
    return _kernels(phases).interleave(_channels_last(phases), bias)  # type: ignore[no-any-return]


def has_triton_kernels(device: torch.device) -> bool:
    """Returns whether tensors on this device are computed in Triton."""
    return device.type == "cuda" and _has_triton()


class _ModulatedNorm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, scale)
        ctx.eps = eps
        return _kernels(x).modulated_norm(x, shift, scale, eps)  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale = ctx.saved_tensors
        return *_kernels(x).modulated_norm_backward(grad.contiguous(), x, scale, ctx.eps), None


class _GatedNorm(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        bias: Tensor | None,
        gate: Tensor,
        shift: Tensor,
        scale: Tensor,
        eps: float,
        save_input: bool,
    ) -> tuple[Tensor, Tensor]:
        moved, normal = _kernels(x).gated_norm(x, y, bias, gate=gate, shift=shift, scale=scale, eps=eps, in_place=False)
        ctx.save_for_backward(x if save_input else moved, y, bias, gate, scale)
        ctx.set_materialize_grads(False)
        ctx.eps, ctx.saved_input = eps, save_input
        return moved, normal

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_moved: Tensor | None, grad_normal: Tensor | None) -> tuple[Tensor | None, ...]:
        saved, y, bias, gate, scale = ctx.saved_tensors
        if grad_normal is None:
            grad_normal = torch.zeros_like(saved)
        backward = partial(_kernels(saved).gated_norm_backward, bias=bias, gate=gate, scale=scale)
        return *backward(grad_moved, grad_normal, saved, y, eps=ctx.eps, saved_input=ctx.saved_input), None, None


class _Gelu(Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(y, bias)
        return _with_bias(y, bias).gelu(y, bias, in_place=False)  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        y, bias = ctx.saved_tensors
        return _with_bias(y, bias).gelu_backward(grad, y, bias)  # type: ignore[no-any-return]


class _QueryKeyValue(Function):
    """Splits qkv [B, N, 3 D] into query, key and value, with the query scaled and shifted. The backward pass writes all
    gradients into one tensor."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(qkv, scale)
        q, k, v = qkv.chunk(3, dim=-1)
        return _kernels(qkv).affine(q, scale, shift), k, v

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_q: Tensor, grad_k: Tensor, grad_v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        qkv, scale = ctx.saved_tensors
        grads = (grad.contiguous() for grad in (grad_q, grad_k, grad_v))
        return _kernels(qkv).query_backward(*grads, qkv, scale)  # type: ignore[no-any-return]


class _Affine(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        ctx.save_for_backward(x, scale)
        return _kernels(x).affine(x, scale, shift)  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        return _kernels(grad).affine_backward(grad.contiguous(), *ctx.saved_tensors)  # type: ignore[no-any-return]


def _product(x: Tensor, weight: Weight, bias: Tensor) -> tuple[Tensor, Tensor | None]:
    """Returns x @ weight^T and the bias [B, out] that is still to be added, or None if the product contains it.

    On a CPU the bias is copied to every token, and the product is added to the copies. PyTorch does the same for a bias
    that all images share, so a bias per image costs no more.
    """
    if isinstance(weight, Fp8Weight) or not x.is_cpu:
        return frozen_linear(x, weight), bias
    if records(x, bias):
        return linear(x, weight, bias.to(x.dtype)), None
    y = bias.to(x.dtype).unsqueeze(1).repeat(1, x.shape[1], 1)
    y.flatten(0, 1).addmm_(x.flatten(0, 1), weight.t())
    return y, None


def _kernels(x: Tensor) -> Any:
    """Returns the module whose functions compute on the device of x: `triton_kernels` or `plain`."""
    return _triton() if has_triton_kernels(x.device) else plain


def _channels_last(image: Tensor) -> Tensor:
    return image.contiguous(memory_format=torch.channels_last)


def _with_bias(y: Tensor, bias: Tensor | None) -> Any:
    """Returns the module that computes the GELU of y + bias. Without a bias it is `plain`, since PyTorch's own GELU is
    a single kernel."""
    return plain if bias is None else _kernels(y)


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


@cache
def _triton() -> Any:
    from core.ml.model.kernels import triton_kernels

    return triton_kernels
