"""The fused operations of `folded_forward`, with gradients: Triton's where the tensors are on a GPU, the plain ones
elsewhere.

A linear layer's weight is frozen; every vector is an image's own, [B, D], and takes its gradient in fp32. What is cheap
to compute again (a normalized activation, a GELU) is computed again in the backward pass.

Letters in shapes: B images, N tokens, D features.
"""

from functools import cache, partial
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from core.ml.model.functions import linear, records
from core.ml.model.kernels import plain


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """LayerNorm(x) * scale + shift: x [B, N, D], shift and scale [B, D] -> [B, N, D]. Saves x."""
    x = x.contiguous()  # as kernels read it: it may be a part of the tokens
    if records(x, shift, scale):
        result: Tensor = _ModulatedNorm.apply(x, shift, scale, eps)  # type: ignore[no-untyped-call]
        return result
    return _kernels(x).modulated_norm(x, shift, scale, eps)  # type: ignore[no-any-return]


def linear_gated_norm(
    branch: Tensor,
    weight: Tensor,
    bias: Tensor,
    gate: Tensor,
    x: Tensor,
    shift: Tensor,
    scale: Tensor,
    eps: float,
    *,
    save_input: bool = False,
) -> tuple[Tensor, Tensor]:
    """The end of a residual branch and the norm after it: x + gate * (branch @ weight^T + bias), and LayerNorm of that
    * scale + shift.

    branch [B, N, in], weight [D, in], x [B, N, D], the others [B, D] -> two of [B, N, D]. Saves the product, and the
    first result or, with `save_input`, x: of a chain of these, every second one may save what the one before saves too.
    Without gradients it writes into x.
    """
    y, rest = _product(branch, weight, bias)
    if records(x, y, bias, gate, shift, scale):
        moved, normal = _GatedNorm.apply(x, y, rest, gate, shift, scale, eps, save_input)  # type: ignore[no-untyped-call]
        return moved, normal
    return _kernels(x).gated_norm(x, y, rest, gate=gate, shift=shift, scale=scale, eps=eps, in_place=True)  # type: ignore[no-any-return]


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """GELU(x @ weight^T + bias): x [B, N, in], weight [D, in], bias [B, D] -> [B, N, D]. Saves the product."""
    return gelu(*_product(x, weight, bias))


def gelu(y: Tensor, bias: Tensor | None = None) -> Tensor:
    """GELU(y + bias) with the hyperbolic tangent's approximation (arXiv 1606.08415): y [B, N, D], bias [B, D]. Saves y.

    Without gradients it writes into y.
    """
    if records(y, bias):
        result: Tensor = _Gelu.apply(y, bias)  # type: ignore[no-untyped-call]
        return result
    return _with_bias(y, bias).gelu(y, bias, in_place=True)  # type: ignore[no-any-return]


def attention(
    qkv: Tensor, query_scale: Tensor, query_shift: Tensor, value_scale: Tensor, value_shift: Tensor, heads: int
) -> Tensor:
    """softmax((q * query_scale + query_shift) k^T / sqrt(d)) v * value_scale + value_shift for each head of d features.

    qkv [B, N, 3 D], the others [B, D] -> [B, N, D]. Saves qkv, the queries and the result before the last affine step;
    without gradients it writes into qkv. PyTorch's own attention with the two affine steps around it was as fast on an
    H200 as one kernel for all (150 and 153 us for 64 images of DiT-XL/2).
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
    """The parts of qkv [B, N, 3 D], the queries scaled and shifted. Their gradients are written side by side."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(qkv, scale)
        q, k, v = qkv.chunk(3, dim=-1)
        return _kernels(qkv).affine(q, scale, shift), k, v

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_q: Tensor, grad_k: Tensor, grad_v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        qkv, scale = ctx.saved_tensors
        grad_qkv = torch.empty_like(qkv)
        q, (into_q, into_k, into_v) = qkv.chunk(3, dim=-1)[0], grad_qkv.chunk(3, dim=-1)
        _, grad_scale, grad_shift = _kernels(qkv).affine_backward(grad_q.contiguous(), q, scale, out=into_q)
        into_k.copy_(grad_k)
        into_v.copy_(grad_v)
        return grad_qkv, grad_scale, grad_shift


class _Affine(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        ctx.save_for_backward(x, scale)
        return _kernels(x).affine(x, scale, shift)  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        return _kernels(grad).affine_backward(grad.contiguous(), *ctx.saved_tensors)  # type: ignore[no-any-return]


def _product(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor | None]:
    """x @ weight^T, and the bias [B, out] that is still to be added.

    A CPU's product with a bias for all adds to copies of the bias, so that there a bias for each image costs no more.
    """
    if not x.is_cpu:
        return F.linear(x, weight), bias
    if records(x, bias):
        return linear(x, weight, bias.to(x.dtype)), None
    y = bias.to(x.dtype).unsqueeze(1).repeat(1, x.shape[1], 1)
    y.flatten(0, 1).addmm_(x.flatten(0, 1), weight.t())
    return y, None


def _kernels(x: Tensor) -> Any:
    """The module whose functions compute on the device of x."""
    return _triton() if x.is_cuda and _has_triton() else plain


def _with_bias(y: Tensor, bias: Tensor | None) -> Any:
    """Alone, PyTorch's own GELU is one kernel."""
    return plain if bias is None else _kernels(y)


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


@cache
def _triton() -> Any:
    from core.ml.model.kernels import triton_kernels

    return triton_kernels
