"""Initial values of the tensors that train."""

import pytest
import torch

from core.artifact.sites import CLASS_TABLE, PRESETS, trainable_shapes
from core.ml.model.dit import DiT
from core.ml.tuning.start import start_tensors
from tests.core.ml.model.small import CONFIG, random_dit


@pytest.fixture(scope="module")
def dit() -> DiT:
    return random_dit().to(torch.bfloat16)


def start(dit: DiT, classes: int, *, keep: bool = False, seed: int = 0) -> dict[str, torch.Tensor]:
    shapes = trainable_shapes(CONFIG, "difffit", PRESETS["paper"], classes)
    tensors = start_tensors(dit, shapes, torch.Generator().manual_seed(seed), keep_classes=keep)
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == shapes
    return tensors


def test_initial_tensors_except_the_class_table_equal_the_base(dit: DiT) -> None:
    state = dit.state_dict()
    for name, tensor in start(dit, 7).items():
        assert tensor.dtype == torch.float32
        if name in state and name != CLASS_TABLE:
            assert torch.equal(tensor, state[name].float())
        elif name.endswith((".factor", ".weight")) and name != CLASS_TABLE:
            assert torch.equal(tensor, torch.ones_like(tensor))
        elif name != CLASS_TABLE:
            assert torch.equal(tensor, torch.zeros_like(tensor))


def test_class_rows_are_new_and_the_null_row_is_copied(dit: DiT) -> None:
    table = start(dit, 200)[CLASS_TABLE]
    assert torch.equal(table[-1], dit.y_embedder.embedding_table.weight[-1].float())
    assert table[:-1].std().item() == pytest.approx(0.02, rel=0.05)
    assert table[:-1].mean().item() == pytest.approx(0, abs=0.001)
    assert torch.equal(table, start(dit, 200)[CLASS_TABLE])
    assert not torch.equal(table, start(dit, 200, seed=1)[CLASS_TABLE])


def test_class_of_the_base_starts_from_its_row(dit: DiT) -> None:
    shapes = trainable_shapes(CONFIG, "difffit", PRESETS["paper"], 3)
    table = start_tensors(dit, shapes, torch.Generator().manual_seed(0), known={1: 4})[CLASS_TABLE]
    new = start(dit, 3)[CLASS_TABLE]
    assert torch.equal(table[1], dit.y_embedder.embedding_table.weight[4].float())
    assert torch.equal(table[[0, 2, 3]], new[[0, 2, 3]])


def test_class_table_of_the_base_can_be_kept(dit: DiT) -> None:
    kept = start(dit, CONFIG.num_classes, keep=True)[CLASS_TABLE]
    assert torch.equal(kept, dit.y_embedder.embedding_table.weight.float())
    with pytest.raises(ValueError, match="the base has 5 classes, not 7"):
        start(dit, 7, keep=True)


def test_initial_tensors_do_not_share_memory_with_the_base(dit: DiT) -> None:
    before = {name: tensor.clone() for name, tensor in dit.state_dict().items()}
    for tensor in start(dit, CONFIG.num_classes, keep=True).values():
        tensor.add_(1)
    assert all(torch.equal(dit.state_dict()[name], tensor) for name, tensor in before.items())
