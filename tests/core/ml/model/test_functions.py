"""Memory-saving autograd functions compared with their plain formulas, which autograd differentiates."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from core.artifact.sites import CLASS_TABLE
from core.ml.model import functions, kernels
from core.ml.model.adapter import TensorAdapter
from core.ml.model.dit import DiT
from core.ml.model.folding import fold, folded_forward
from tests.core.ml.model.small import ADAPTERS, batch, random_dit, random_tensors

B, N, D, HEADS = 3, 5, 24, 4
Step = Callable[..., Tensor]


def stack(parts: tuple[Tensor, ...]) -> Tensor:
    return torch.stack([part * (index + 1) for index, part in enumerate(parts)])


PAIRS: dict[str, tuple[Step, Step, list[tuple[int, ...]]]] = {
    "linear": (functions.linear, F.linear, [(B, 5 * N, D), (2 * D, D), (2 * D,)]),
    "linear, without a bias": (lambda x, weight: functions.linear(x, weight, None), F.linear, [(64, D), (D, D)]),
    "linear, few rows": (functions.linear, F.linear, [(B, D), (2 * D, D), (2 * D,)]),
    "modulated_norm": (
        lambda x, shift, scale: kernels.modulated_norm(x, shift, scale, 1e-6),
        lambda x, shift, scale: F.layer_norm(x, (D,), eps=1e-6) * scale[:, None] + shift[:, None],
        [(B, N, D), (B, D), (B, D)],
    ),
    "gated": (functions.gated, lambda x, gate, branch: x + gate[:, None] * branch, [(B, N, D), (B, D), (B, N, D)]),
    "scaled": (functions.scaled, lambda y, factor: y * factor, [(B, N, D), (D,)]),
    "scaled, two dimensions": (functions.scaled, lambda y, factor: y * factor, [(B, D), (D,)]),
    "heads": (
        lambda qkv: stack(functions.heads(qkv, HEADS)),
        lambda qkv: stack(qkv.unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4).unbind()),
        [(B, N, 3 * D)],
    ),
    "gelu": (kernels.gelu, lambda x: F.gelu(x, approximate="tanh"), [(B, N, D)]),
    "linear_gelu": (
        lambda x, bias: kernels.linear_gelu(x, weight(x, 2 * D, D), bias),
        lambda x, bias: F.gelu(F.linear(x, weight(x, 2 * D, D)) + bias[:, None], approximate="tanh"),
        [(B, N, D), (B, 2 * D)],
    ),
    "linear_gelu, one bias for all": (
        lambda x, bias: kernels.linear_gelu(x, weight(x, 2 * D, D), bias.expand(B, -1)),
        lambda x, bias: F.gelu(F.linear(x, weight(x, 2 * D, D), bias), approximate="tanh"),
        [(B, N, D), (2 * D,)],
    ),
    "linear_gated_norm": (
        lambda branch, *rest: both(*kernels.linear_gated_norm(branch, weight(branch, D, 2 * D), *rest, 1e-6)),
        lambda *values: both(*plain_gated_norm(*values)),
        [(B, N, 2 * D), (B, D), (B, D), (B, N, D), (B, D), (B, D)],
    ),
    "linear_gated_norm, saving its input": (
        lambda branch, *rest: both(
            *kernels.linear_gated_norm(branch, weight(branch, D, 2 * D), *rest, 1e-6, save_input=True)
        ),
        lambda *values: both(*plain_gated_norm(*values)),
        [(B, N, 2 * D), (B, D), (B, D), (B, N, D), (B, D), (B, D)],
    ),
    "linear_gated_norm, the norm alone": (
        lambda branch, *rest: kernels.linear_gated_norm(branch, weight(branch, D, 2 * D), *rest, 1e-6)[1],
        lambda *values: plain_gated_norm(*values)[1],
        [(B, N, 2 * D), (B, D), (B, D), (B, N, D), (B, D), (B, D)],
    ),
    "attention": (
        lambda *values: kernels.attention(*values, HEADS),
        lambda *values: plain_attention(*values),
        [(B, N, 3 * D), (B, D), (B, D), (B, D), (B, D)],
    ),
}


def weight(x: Tensor, outputs: int, inputs: int) -> Tensor:
    """Returns a frozen layer's weight, [outputs, inputs]."""
    generator = torch.Generator().manual_seed(2)
    return (torch.randn(outputs, inputs, generator=generator, dtype=torch.float64) / inputs**0.5).to(x.dtype)


def both(moved: Tensor, normal: Tensor) -> Tensor:
    return torch.cat([moved, 2 * normal])


def plain_gated_norm(
    branch: Tensor, bias: Tensor, gate: Tensor, x: Tensor, shift: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    moved = x + gate[:, None] * (F.linear(branch, weight(branch, D, 2 * D)) + bias[:, None])
    return moved, F.layer_norm(moved, (D,), eps=1e-6) * scale[:, None] + shift[:, None]


def plain_attention(
    qkv: Tensor, query_scale: Tensor, query_shift: Tensor, value_scale: Tensor, value_shift: Tensor
) -> Tensor:
    q, k, v = qkv.chunk(3, dim=-1)
    q, v = q * query_scale[:, None] + query_shift[:, None], v * value_scale[:, None] + value_shift[:, None]
    q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (q, k, v))
    return (q @ k.transpose(-1, -2) / (D / HEADS) ** 0.5).softmax(-1).matmul(v).transpose(1, 2).flatten(2)


def inputs(shapes: list[tuple[int, ...]], dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [2 * torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


def with_gradients(step: Step, values: list[Tensor]) -> list[Tensor]:
    """Returns the step's result, and the gradients of all its inputs."""
    leaves = [value.clone().requires_grad_() for value in values]
    result = step(*leaves)
    weights = torch.randn(result.shape, generator=torch.Generator().manual_seed(1)).bfloat16().to(result.dtype)
    return [result, *torch.autograd.grad((result * weights).sum(), leaves)]


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-12), (torch.float32, 3e-5), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("name", PAIRS)
def test_values_and_gradients_equal_those_of_autograd(name: str, dtype: torch.dtype, limit: float) -> None:
    ours, plain, shapes = PAIRS[name]
    values = inputs(shapes, dtype)
    references = with_gradients(plain, [value.double() for value in values])
    for result, reference in zip(with_gradients(ours, values), references, strict=True):
        assert result.dtype == dtype
        assert (result - reference).abs().max() <= limit * reference.abs().max()


@pytest.mark.parametrize("name", PAIRS)
def test_gradients_equal_finite_differences(name: str) -> None:
    ours, _, shapes = PAIRS[name]
    values = [value.requires_grad_() for value in inputs(shapes, torch.float64)]
    assert torch.autograd.gradcheck(ours, values)


def test_factor_of_zero_has_a_gradient_of_zero() -> None:
    y, factor = inputs([(B, N, D), (D,)], torch.float64)
    factor[3] = 0
    _, grad_y, grad_factor = with_gradients(functions.scaled, [y, factor])
    assert grad_factor[3] == 0
    assert not grad_y[..., 3].any()
    assert grad_factor.isfinite().all()


def test_gelu_is_the_same_with_and_without_gradients() -> None:
    (x,) = inputs([(B, N, D)], torch.float32)
    with torch.no_grad():
        output = kernels.gelu(x.clone())
    torch.testing.assert_close(output, kernels.gelu(x.requires_grad_()), rtol=0, atol=1e-6)


@pytest.mark.parametrize("folded", [True, False])
def test_finetune_saves_no_input_of_a_frozen_layer(folded: bool) -> None:
    """Bounds the bytes saved for the backward pass. Each block saves the residual stream twice, both branches' outputs,
    query, key and value, attention's output, and the GELU's input (four times as wide). It saves no output of norms,
    scalings or the GELU."""
    dit = random_dit()
    d, tokens, depth = dit.config.hidden_size, dit.config.tokens, dit.config.depth
    tensors = {name: tensor.requires_grad_() for name, tensor in random_tensors(dit, "paper").items()}
    x, t, y = batch()
    saved: dict[int, int] = {}

    def remember(tensor: Tensor) -> Tensor:
        if tensor.ndim >= 3 and tensor.shape[-2] == tokens:  # per head, or for all heads together
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        if folded:
            classes = F.embedding(y, tensors[CLASS_TABLE])
            folded_forward(dit, x, t, classes, fold(dit, tensors).expand(len(x), -1))
        else:
            dit(x, t, y, TensorAdapter(tensors))
    units = sum(saved.values()) / (4 * len(x) * tokens * d)
    assert units <= 12 * depth + 3, "12 per block, and those of the patches and the final layer"


@pytest.mark.parametrize("name", ADAPTERS)
def test_gradients_of_a_whole_model_equal_those_of_autograd(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compares every trainable's gradient with that of the same model with the formulas written out."""
    dit = random_dit(dtype=torch.float64)
    tensors = {name: tensor.requires_grad_() for name, tensor in random_tensors(dit, name).items()}
    grads = _gradients(dit, tensors)
    for module, step in (("dit", "gated"), ("dit", "gelu"), ("adapter", "scaled")):
        monkeypatch.setattr(f"core.ml.model.{module}.{step}", PAIRS[step][1])
    monkeypatch.setattr("core.ml.model.dit.modulated_norm", _plain_norm)
    monkeypatch.setattr("core.ml.model.dit.heads", _plain_heads)
    for (name, ours), plain in zip(grads.items(), _gradients(dit, tensors).values(), strict=True):
        assert (ours - plain).abs().max() <= 1e-10 * plain.abs().max(), name


def _gradients(dit: DiT, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    x, t, y = batch()
    output = dit(x, t, y, TensorAdapter(tensors))
    return dict(zip(tensors, torch.autograd.grad(output.square().sum(), list(tensors.values())), strict=True))


def _plain_norm(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=eps) * scale[:, None] + shift[:, None]


def _plain_heads(qkv: Tensor, count: int) -> tuple[Tensor, ...]:
    return qkv.unflatten(-1, (3, count, -1)).permute(2, 0, 3, 1, 4).unbind()
