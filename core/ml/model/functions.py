"""Memory-saving autograd functions: they save fewer tensors for the backward pass, and read memory fewer times.

Values and gradients equal autograd's up to rounding. Each docstring lists the tensors that the function saves. A scale
factor's gradient is computed from the scaled product, which the next operation saves anyway. On a CPU a batch is
processed image by image, so that intermediate results stay in the cache.

Letters in shapes: B images, N tokens, D features.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

_ONEDNN = torch.backends.mkldnn.is_available()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Returns x @ weight^T + bias: x [..., in], weight [out, in], bias [out], or [B, out] for x [B, N, in] (a bias per
    image). Saves x only if the weight requires a gradient.

    On a CPU in fp32 it calls oneDNN: MKL, which PyTorch would choose, took twice as long on an AMD EPYC.
    """
    if not _by_onednn(x):
        if bias is None or bias.ndim == 1:
            return F.linear(x, weight, bias)
        return F.linear(x, weight) + bias.unsqueeze(1)
    if records(x, weight, bias):
        result: Tensor = _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return result
    return _biased_product(x, weight, bias)


def batch_invariant_linear(x: Tensor, weight: Tensor) -> Tensor:
    """Returns x @ weight^T: x [B, in], weight [out, in], frozen. A row's result does not depend on the other rows.

    On a CPU in fp32 it calls oneDNN for this reason. MKL on an Intel Xeon with AVX-512 uses different kernels for 8 and
    16 rows, which round sums differently.
    """
    if not _ONEDNN or not x.is_cpu or x.dtype != torch.float32 or torch.compiler.is_compiling():
        return F.linear(x, weight)
    if records(x):
        result: Tensor = _Linear.apply(x, weight, None)  # type: ignore[no-untyped-call]
        return result
    return _product(x, weight, None)


def gated(x: Tensor, gate: Tensor, branch: Tensor) -> Tensor:
    """Returns x + gate * branch: x and branch [B, N, D], gate [B, D]. Saves gate and branch."""
    result: Tensor = _Gated.apply(x, gate.unsqueeze(1), branch)  # type: ignore[no-untyped-call]
    return result


def scaled(y: Tensor, factor: Tensor) -> Tensor:
    """Returns y * factor: y [..., D], factor [D]. Saves factor and the product, which the next operation saves too, and
    not y.

    The factor's gradient is the sum of product * grad over all rows, divided by factor; where the factor is 0, the
    gradient is 0.
    """
    result: Tensor = _Scaled.apply(y, factor)  # type: ignore[no-untyped-call]
    return result


def heads(qkv: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Splits qkv [B, N, 3 D] into query, key and value, each [B, count, N, D / count]. The backward pass writes their
    gradients straight into one tensor."""
    query, key, value = _Heads.apply(qkv, count)  # type: ignore[no-untyped-call]
    return query, key, value


def records(*tensors: Tensor | None) -> bool:
    """Returns whether autograd will ask for the gradient of one of the tensors."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def image_parts(x: Tensor) -> Iterator[slice]:
    """Returns the slices in which a batch is processed: single images on a CPU; elsewhere the whole batch, since each
    operation costs a kernel launch on a GPU, and Inductor fuses the operations."""
    by_one = x.is_cpu and not torch.compiler.is_compiling()
    return (slice(b, b + 1) for b in range(len(x))) if by_one else iter((slice(None),))


class _Linear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        needs_x, needs_weight, _ = ctx.needs_input_grad
        ctx.save_for_backward(x if needs_weight else None, weight if needs_x else None)
        ctx.by_image = bias is not None and bias.ndim == 2
        return _biased_product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        lines = grad.flatten(0, -2)
        grad_x = None if weight is None else _product(grad, weight.t(), None)
        grad_weight = None if x is None else _product(lines.t(), x.flatten(0, -2).t(), None)
        if not ctx.needs_input_grad[2]:
            return grad_x, grad_weight, None
        return grad_x, grad_weight, grad.sum(1) if ctx.by_image else lines.sum(0)


class _Gated(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor, branch: Tensor) -> Tensor:
        ctx.save_for_backward(gate, branch)
        return torch.addcmul(x, gate, branch)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        gate, branch = ctx.saved_tensors
        grad_gate = [(grad[part] * branch[part]).sum(1, keepdim=True) for part in image_parts(grad)]
        return grad, torch.cat(grad_gate), grad * gate


class _Scaled(Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, factor: Tensor) -> Tensor:
        z = y * factor
        ctx.save_for_backward(z, factor)
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        z, factor = ctx.saved_tensors
        over = tuple(range(grad.ndim - 1))
        along = torch.stack([(grad[part] * z[part]).sum(over) for part in image_parts(grad)]).sum(0)
        return grad * factor, torch.where(factor == 0, 0, along / factor)


class _Heads(Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, count: int) -> tuple[Tensor, ...]:
        ctx.shape = (*qkv.shape[:2], 3, count, qkv.shape[2] // count // 3)
        parts: tuple[Tensor, ...] = qkv.view(ctx.shape).permute(2, 0, 3, 1, 4).unbind()
        return parts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        whole = grads[0].new_empty(ctx.shape)
        for place, grad in enumerate(grads):
            whole[:, :, place] = grad.transpose(1, 2)
        return whole.flatten(2), None


def _by_onednn(x: Tensor) -> bool:
    """Returns whether `linear` calls oneDNN. It does not for fewer than 64 rows, such as the conditions of a batch,
    since MKL computes the weight's gradient faster there."""
    if torch.compiler.is_compiling():
        return False  # Inductor makes its own choice
    return _ONEDNN and x.is_cpu and x.dtype == torch.float32 and x.numel() >= 64 * x.shape[-1]


def _biased_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Returns x @ weight^T + bias. A bias that all images share is added inside the product, at no cost and with
    bitwise the same result as an addition of its own."""
    if bias is None or bias.ndim == 1:
        return _product(x, weight, bias)
    if bias.stride(0) == 0:
        return _product(x, weight, bias[0])
    return _product(x, weight, None).add_(bias.unsqueeze(1))


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Returns x @ weight^T + bias, computed by oneDNN through Inductor's own operator, since PyTorch has no public
    one."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result
