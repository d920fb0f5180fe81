"""The autograd functions against the formulas that they stand for, differentiated by autograd."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from core.model import functions
from core.model.adapter import TensorAdapter
from core.model.dit import DiT
from tests.core.model.small import ADAPTERS, batch, random_dit, random_tensors

B, N, D, HEADS = 3, 5, 24, 4
Step = Callable[..., Tensor]


def stack(parts: tuple[Tensor, ...]) -> Tensor:
    return torch.stack([part * (place + 1) for place, part in enumerate(parts)])


PAIRS: dict[str, tuple[Step, Step, list[tuple[int, ...]]]] = {
    "linear": (functions.linear, F.linear, [(B, 5 * N, D), (2 * D, D), (2 * D,)]),
    "linear, without a bias": (lambda x, weight: functions.linear(x, weight, None), F.linear, [(64, D), (D, D)]),
    "linear, few rows": (functions.linear, F.linear, [(B, D), (2 * D, D), (2 * D,)]),
    "modulate": (
        lambda x, shift, scale: functions.modulate(x, shift, scale, 1e-6),
        lambda x, shift, scale: F.layer_norm(x, (D,), eps=1e-6) * scale + shift,
        [(B, N, D), (B, 1, D), (B, 1, D)],
    ),
    "gated": (functions.gated, lambda x, gate, branch: x + gate * branch, [(B, N, D), (B, 1, D), (B, N, D)]),
    "scaled": (functions.scaled, lambda y, factor: y * factor, [(B, N, D), (D,)]),
    "scaled, two dimensions": (functions.scaled, lambda y, factor: y * factor, [(B, D), (D,)]),
    "heads": (
        lambda qkv: stack(functions.heads(qkv, HEADS)),
        lambda qkv: stack(qkv.unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4).unbind()),
        [(B, N, 3 * D)],
    ),
    "gelu": (functions.gelu, lambda x: F.gelu(x, approximate="tanh"), [(B, N, D)]),
}


def inputs(shapes: list[tuple[int, ...]], dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [2 * torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


def with_gradients(step: Step, values: list[Tensor]) -> list[Tensor]:
    """The step's result, and the gradients of everything that goes in."""
    leaves = [value.clone().requires_grad_() for value in values]
    result = step(*leaves)
    weights = torch.randn(result.shape, generator=torch.Generator().manual_seed(1)).bfloat16().to(result.dtype)
    return [result, *torch.autograd.grad((result * weights).sum(), leaves)]


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-12), (torch.float32, 3e-5), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("name", PAIRS)
def test_values_and_gradients_are_autograds(name: str, dtype: torch.dtype, limit: float) -> None:
    ours, plain, shapes = PAIRS[name]
    values = inputs(shapes, dtype)
    expected = with_gradients(plain, [value.double() for value in values])
    for found, value in zip(with_gradients(ours, values), expected, strict=True):
        assert found.dtype == dtype
        assert (found - value).abs().max() <= limit * value.abs().max()


@pytest.mark.parametrize("name", PAIRS)
def test_gradients_are_the_slopes(name: str) -> None:
    ours, _, shapes = PAIRS[name]
    values = [value.requires_grad_() for value in inputs(shapes, torch.float64)]
    assert torch.autograd.gradcheck(ours, values)


def test_a_factor_of_zero_has_no_gradient() -> None:
    y, factor = inputs([(B, N, D), (D,)], torch.float64)
    factor[3] = 0
    _, of_y, of_factor = with_gradients(functions.scaled, [y, factor])
    assert of_factor[3] == 0
    assert not of_y[..., 3].any()
    assert of_factor.isfinite().all()


def test_a_gelu_without_gradients_is_that_with_them() -> None:
    (x,) = inputs([(B, N, D)], torch.float32)
    with torch.no_grad():
        found = functions.gelu(x.clone())
    torch.testing.assert_close(found, functions.gelu(x.requires_grad_()), rtol=0, atol=1e-6)


def test_a_fine_tune_keeps_no_input_of_a_frozen_layer() -> None:
    """For the backward pass: the residual stream twice, both branches' outputs, query, key and value, what attention
    mixes, and what enters the GELU (four times as wide). Nothing that is normalized, scaled or put through the GELU."""
    dit = random_dit()
    d, tokens, depth = dit.config.hidden_size, dit.config.tokens, dit.config.depth
    tensors = {name: tensor.requires_grad_() for name, tensor in random_tensors(dit, "paper").items()}
    x, t, y = batch()
    kept: dict[int, int] = {}

    def remember(tensor: Tensor) -> Tensor:
        if tensor.ndim >= 3 and tensor.untyped_storage().nbytes() >= 4 * len(x) * tokens * d:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        dit(x, t, y, TensorAdapter(tensors))
    units = sum(kept.values()) / (4 * len(x) * tokens * d)
    assert units <= 12 * depth + 2, "12 a block, and the final layer's"


@pytest.mark.parametrize("name", ADAPTERS)
def test_gradients_of_a_whole_model_are_autograds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every trainable of an adapter, against the same model with the formulas written out."""
    dit = random_dit(dtype=torch.float64)
    tensors = {name: tensor.requires_grad_() for name, tensor in random_tensors(dit, name).items()}
    found = _gradients(dit, tensors)
    for module, step in (("dit", "gated"), ("dit", "gelu"), ("adapter", "scaled")):
        monkeypatch.setattr(f"core.model.{module}.{step}", PAIRS[step][1])
    monkeypatch.setattr("core.model.dit.modulate", _plain_modulate)
    monkeypatch.setattr("core.model.dit.heads", _plain_heads)
    for (name, ours), plain in zip(found.items(), _gradients(dit, tensors).values(), strict=True):
        assert (ours - plain).abs().max() <= 1e-10 * plain.abs().max(), name


def _gradients(dit: DiT, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    x, t, y = batch()
    output = dit(x, t, y, TensorAdapter(tensors))
    return dict(zip(tensors, torch.autograd.grad(output.square().sum(), list(tensors.values())), strict=True))


def _plain_modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=eps) * scale + shift


def _plain_heads(qkv: Tensor, count: int) -> tuple[Tensor, ...]:
    return qkv.unflatten(-1, (3, count, -1)).permute(2, 0, 3, 1, 4).unbind()
