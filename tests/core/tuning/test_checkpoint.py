"""Checkpoints of a run: whole, its own, and never half-written."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from core.errors import CheckpointInvalid
from core.tuning.checkpoint import pack, unpack, write_file

STATE = {"parameters": torch.randn(5), "steps_done": torch.tensor(3), "generator": torch.Generator().get_state()}
ABOUT: dict[str, Any] = {"method": "difffit", "training": {"learning_rate": 1e-3, "clip": None}, "classes": ("a", "b")}


def test_a_checkpoint_gives_back_what_went_in() -> None:
    found = unpack(pack(STATE, ABOUT), ABOUT)
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in STATE.items())


def test_another_runs_checkpoint_is_refused() -> None:
    with pytest.raises(CheckpointInvalid, match="belongs to a run with other settings"):
        unpack(pack(STATE, ABOUT), {**ABOUT, "training": {"learning_rate": 2e-3, "clip": None}})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"123",
        b"123456789",
        pack(STATE, ABOUT)[:-1],
        pack(STATE, ABOUT)[:100],
        save(STATE),
        save(STATE, metadata={"about": "{"}),
        b"\2" + bytes(7) + b"[]",
    ],
)
def test_damage_is_told(data: bytes) -> None:
    with pytest.raises(CheckpointInvalid, match="cannot be read"):
        unpack(data, ABOUT)


def test_a_file_is_replaced_in_one_move(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.safetensors"
    write_file(file, b"first")
    with file.open("rb") as reader:
        write_file(file, b"second")
        assert reader.read() == b"first", "who reads the old file keeps it whole"
    assert file.read_bytes() == b"second"
    assert list(tmp_path.iterdir()) == [file]
