"""An adapter folded into vectors computes what the adapter computes, row by row."""

import pytest
import torch

from core.artifact.base import BaseConfig
from core.artifact.sites import CLASS_TABLE
from core.model.adapter import TensorAdapter
from core.model.folding import VectorLayout, fold, folded_forward
from tests.core.model.small import CONFIG, FOLDING, batch, difference, fresh_tensors, random_dit, random_tensors


@pytest.mark.parametrize("name", FOLDING)
def test_folded_vectors_equal_the_live_adapter(name: str) -> None:
    dit = random_dit(dtype=torch.float64)
    tensors = random_tensors(dit, name)
    x, t, y = batch(size=6)
    vectors = fold(dit, tensors).expand(6, -1)
    found = folded_forward(dit, x, t, tensors[CLASS_TABLE][y], vectors)
    assert difference(found, dit(x, t, y, TensorAdapter(tensors))) < 1e-12


@pytest.mark.parametrize("name", FOLDING)
def test_a_fresh_adapter_folds_to_the_base(name: str) -> None:
    dit = random_dit()
    x, t, y = batch(classes=CONFIG.num_classes)
    classes = dit.y_embedder.embedding_table.weight[y]
    found = folded_forward(dit, x, t, classes, fold(dit, fresh_tensors(dit, name)).expand(len(x), -1))
    assert difference(found, dit(x, t, y)) < 1e-5


def test_no_adapter_folds_to_the_base() -> None:
    dit = random_dit()
    x, t, y = batch(classes=CONFIG.num_classes)
    classes = dit.y_embedder.embedding_table.weight[y]
    assert difference(folded_forward(dit, x, t, classes, fold(dit, {}).expand(len(x), -1)), dit(x, t, y)) < 1e-5


def test_rows_of_one_batch_can_belong_to_different_adapters_and_timesteps() -> None:
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


def test_vectors_of_xl_are_a_thousandth_of_the_model() -> None:
    """What a slot of the bank costs for DiT-XL/2: 28 blocks of 23 vectors as wide as the model and 10 around them."""
    d = 1152
    assert VectorLayout(BaseConfig()).length == (28 * (12 + 2 + 3 + 1 + 4 + 1) + 5 + 5) * d + 64
