"""An adapter folded into vectors computes what the adapter computes, row by row."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from core.artifact.base import BaseConfig
from core.artifact.sites import CLASS_TABLE
from core.ml.model.adapter import TensorAdapter
from core.ml.model.folding import VectorLayout, fold, folded_forward, fp8_weights
from tests.core.ml.model.small import CONFIG, FOLDING, batch, difference, fresh_tensors, random_dit, random_tensors


@pytest.mark.parametrize("name", FOLDING)
def test_folded_vectors_equal_the_live_adapter(name: str) -> None:
    dit = random_dit(dtype=torch.float64)
    tensors = random_tensors(dit, name)
    x, t, y = batch(size=6)
    vectors = fold(dit, tensors).expand(6, -1)
    output = folded_forward(dit, x, t, tensors[CLASS_TABLE][y], vectors)
    assert difference(output, dit(x, t, y, TensorAdapter(tensors))) < 1e-12


@pytest.mark.parametrize("name", FOLDING)
def test_fresh_adapter_folds_to_the_base(name: str) -> None:
    dit = random_dit()
    x, t, y = batch(classes=CONFIG.num_classes)
    classes = dit.y_embedder.embedding_table.weight[y]
    output = folded_forward(dit, x, t, classes, fold(dit, fresh_tensors(dit, name)).expand(len(x), -1))
    assert difference(output, dit(x, t, y)) < 1e-5


def test_no_adapter_folds_to_the_base() -> None:
    dit = random_dit()
    x, t, y = batch(classes=CONFIG.num_classes)
    classes = dit.y_embedder.embedding_table.weight[y]
    assert difference(folded_forward(dit, x, t, classes, fold(dit, {}).expand(len(x), -1)), dit(x, t, y)) < 1e-5


def test_batch_rows_may_have_different_adapters_and_timesteps() -> None:
    dit = random_dit(dtype=torch.float64)
    adapters = [random_tensors(dit, name, seed=seed) for seed, name in enumerate(FOLDING)]
    x, t, y = batch(size=6)
    chosen = [0, 1, 2, 3, 1, 0]
    classes = torch.stack([adapters[adapter][CLASS_TABLE][label] for adapter, label in zip(chosen, y, strict=True)])
    vectors = torch.stack([fold(dit, adapters[adapter]) for adapter in chosen])
    mixed = folded_forward(dit, x, t, classes, vectors)
    for row, adapter in enumerate(chosen):
        solo = dit(x[row, None].double(), t[row, None], y[row, None], TensorAdapter(adapters[adapter]))
        assert difference(mixed[row, None], solo) < 1e-12


def test_table_slot_of_dit_xl_has_the_expected_length() -> None:
    """Counts the values of one table slot for DiT-XL/2: 24 vectors of the model's width in each of 28 blocks, 10 around
    them, and 64 more."""
    d = 1152
    assert VectorLayout(BaseConfig()).length == (28 * (12 + 2 + 4 + 1 + 4 + 1) + 5 + 5) * d + 64


@pytest.mark.parametrize("name", FOLDING)
def test_gradients_through_the_fold_equal_those_through_the_live_adapter(name: str) -> None:
    dit = random_dit(dtype=torch.float64)
    tensors = {site: tensor.requires_grad_() for site, tensor in random_tensors(dit, name).items()}
    x, t, y = batch(size=6)
    target = torch.randn(6, 8, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    live = dit(x, t, y, TensorAdapter(tensors))
    folded = folded_forward(dit, x, t, F.embedding(y, tensors[CLASS_TABLE]), fold(dit, tensors).expand(6, -1))
    expected, grads = (torch.autograd.grad((output * target).sum(), [*tensors.values()]) for output in (live, folded))
    for site, grad, reference in zip(tensors, grads, expected, strict=True):
        if site.endswith("attn.qkv.bias"):  # softmax ignores the key's bias
            grad, reference = (torch.cat(stacked.chunk(3)[::2]) for stacked in (grad, reference))
        scale = reference.abs().max()
        assert float((grad - reference).abs().max() / scale) < 1e-10, site


def test_each_owner_of_a_mixed_batch_gets_the_gradients_of_its_own_rows() -> None:
    dit = random_dit(dtype=torch.float64)
    adapters = [
        {site: tensor.requires_grad_() for site, tensor in random_tensors(dit, name, seed=seed).items()}
        for seed, name in enumerate(("paper", "bitfit", "every site"))
    ]
    x, t, y = batch(size=6)
    owner = torch.tensor([0, 1, 2, 1, 0, 2])

    def loss(rows: Tensor, owners: Tensor, adapters: list[dict[str, Tensor]]) -> Tensor:
        classes = torch.stack([adapters[owner][CLASS_TABLE][y[row]] for row, owner in zip(rows, owners, strict=True)])
        vectors = torch.stack([fold(dit, adapter) for adapter in adapters])[owners]
        return folded_forward(dit, x[rows], t[rows], classes, vectors).square().sum()

    together = loss(torch.arange(6), owner, adapters)
    for index, adapter in enumerate(adapters):
        rows = (owner == index).nonzero().flatten()
        alone = loss(rows, torch.zeros_like(rows), [adapter])
        expected = torch.autograd.grad(alone, [*adapter.values()])
        grads = torch.autograd.grad(together, [*adapter.values()], retain_graph=True)
        for site, grad, reference in zip(adapter, grads, expected, strict=True):
            assert float((grad - reference).abs().max()) <= 1e-9 * float(reference.abs().max()) + 1e-9, site


def test_forward_in_fp8_is_near_the_forward_and_rows_stay_independent() -> None:
    dit = random_dit()
    x, t, y = batch(size=6)
    classes, vectors = dit.y_embedder.embedding_table.weight[y], fold(dit, random_tensors(dit, "paper")).expand(6, -1)
    weights = fp8_weights(dit)
    assert len(weights) == 4 * CONFIG.depth
    with torch.inference_mode():
        expected = folded_forward(dit, x, t, classes, vectors)
        output = folded_forward(dit, x, t, classes, vectors, weights)
        solo = folded_forward(dit, x[2:3], t[2:3], classes[2:3], vectors[2:3], weights)
    assert 0.001 < float((output - expected).norm() / expected.norm()) < 0.1
    assert difference(solo, output[2:3]) < 1e-4


def test_forward_compiles_to_one_graph_and_changes_no_input() -> None:
    dit = random_dit()
    x, t, y = batch(size=6)
    vectors = torch.stack([fold(dit, random_tensors(dit, name)) for name in ("paper", "bitfit", "literal")] * 2)
    inputs = (x, t, dit.y_embedder.embedding_table.weight[y], vectors.detach())
    before = [tensor.clone() for tensor in inputs]
    with torch.inference_mode():
        expected = folded_forward(dit, *inputs)
        output = torch.compile(folded_forward, fullgraph=True, dynamic=False, backend="aot_eager")(dit, *inputs)
    assert difference(output, expected) < 1e-5
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(inputs, before, strict=True))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # by torch.compile itself
def test_training_forward_compiles_to_one_graph() -> None:
    dit = random_dit()
    x, t, y = batch(size=3)
    tensors = {site: tensor.requires_grad_() for site, tensor in random_tensors(dit, "paper").items()}

    def loss(tensors: dict[str, Tensor]) -> Tensor:
        classes = F.embedding(y, tensors[CLASS_TABLE])
        return folded_forward(dit, x, t, classes, fold(dit, tensors).expand(3, -1)).square().mean()

    expected = torch.autograd.grad(loss(tensors), [*tensors.values()])
    compiled = torch.compile(loss, fullgraph=True, dynamic=False, backend="aot_eager")
    grads = torch.autograd.grad(compiled(tensors), [*tensors.values()])
    for site, grad, reference in zip(tensors, grads, expected, strict=True):
        assert float((grad - reference).abs().max()) <= 1e-4 * float(reference.abs().max()) + 1e-6, site
