"""The folded route computes the same values and gradients as the reference, for every site."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from core.artifact.additions import Lora
from core.artifact.sites import CLASS_TABLE, PRESETS, Sites, folds, trainable_shapes
from core.ml.model.adapter import TensorAdapter
from core.ml.tuning.passes import row_losses
from core.ml.tuning.routes import FoldedRoute, ReferenceRoute, Route, route_of
from tests.core.ml.model.small import CONFIG, FOLDING, batch, random_dit, random_tensors

ABSENT: dict[str, Callable[[str], bool]] = {
    "nothing": lambda _: False,
    "everything": lambda _: True,
    "factors": lambda name: name.endswith(".factor"),
    "norms": lambda name: "norm" in name,
    "two blocks": lambda name: name.startswith(("blocks.1.", "blocks.2.")),
    "biases and classes": lambda name: (name.endswith(".bias") and "norm" not in name) or name == CLASS_TABLE,
}
"""Tensors of an adapter that are left out."""


@pytest.mark.parametrize("absent", ABSENT.values(), ids=ABSENT)
@pytest.mark.parametrize("name", FOLDING)
@pytest.mark.parametrize("scale", [1, 2])
def test_both_routes_give_equal_losses_and_gradients(name: str, absent: Callable[[str], bool], scale: int) -> None:
    """Compares in float64, with values far from the start, at the base's image size and at twice that."""
    dit = random_dit(dtype=torch.float64)
    tensors = {name: tensor for name, tensor in random_tensors(dit, name).items() if not absent(name)}
    routes = FoldedRoute(dit), ReferenceRoute(dit, TensorAdapter)
    (losses, gradients), (expected, references) = (losses_and_gradients(route, tensors, scale) for route in routes)
    torch.testing.assert_close(losses, expected, rtol=1e-10, atol=1e-10)
    size = max((float(reference.abs().max()) for reference in references), default=1.0)
    for gradient, reference in zip(gradients, references, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-10, atol=1e-10 * size)


def losses_and_gradients(route: Route, tensors: dict[str, Tensor], scale: int) -> tuple[Tensor, tuple[Tensor, ...]]:
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}
    x, t, y = batch()
    x = x.double().repeat(1, 1, scale, scale)
    model = route.model(leaves)
    mse, bound = row_losses(model, x, y, t, x.flip(0) + x.roll(1, -1))
    outputs = model(x, t, y).square().mean()  # fp64 throughout, unlike the loss
    gradients = torch.autograd.grad(outputs, list(leaves.values())) if leaves else ()
    return torch.stack([*(mse + bound), outputs.float()]).detach(), gradients


@pytest.mark.parametrize("method", ["difffit", "bitfit"])
def test_difffit_and_bitfit_train_through_the_folded_form(method: str) -> None:
    dit = random_dit()
    for sites in (*PRESETS.values(), Sites(patch=True, time=True, last_block=CONFIG.depth)):
        for classes in (None, 3):
            shapes = trainable_shapes(CONFIG, method, sites, classes)  # type: ignore[arg-type]
            assert isinstance(route_of(dit, shapes, TensorAdapter), FoldedRoute)


def test_other_methods_train_through_the_reference() -> None:
    full = trainable_shapes(CONFIG, "full", Sites(), 3)
    for shapes in (full, trainable_shapes(CONFIG, "lora", Lora(), 3)):
        assert not folds(CONFIG, shapes)
        assert isinstance(route_of(random_dit(), shapes, TensorAdapter), ReferenceRoute)


def test_joint_pass_equals_single_passes() -> None:
    dit = random_dit(dtype=torch.float64)
    adapters = [random_tensors(dit, name, seed=seed) for seed, name in enumerate(["paper", "bitfit", "every site"])]
    adapters.append({name: tensor for name, tensor in adapters[0].items() if name != CLASS_TABLE})
    x, t, y = batch(size=6, classes=3)
    x, counts = x.double(), [1, 2, 1, 2]
    route = FoldedRoute(dit)
    together = route.joint_model(list(zip(adapters, counts, strict=True)))(x, t, y)
    alone = [
        route.model(tensors)(*rows)
        for tensors, *rows in zip(adapters, x.split(counts), t.split(counts), y.split(counts), strict=True)
    ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-12, atol=1e-12)
