"""Checkpoints of a run: whole, its own, and never half-written."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from core.artifact.errors import ChecksumMismatch, NotFound
from core.ml.errors import CheckpointInvalid
from core.ml.tuning import checkpoint
from core.ml.tuning.checkpoint import Resume, last_readable, pack, unpack, write_file
from core.service.storage.errors import StorageUnavailable

STATE = {"parameters": torch.randn(5), "steps_done": torch.tensor(3), "generator": torch.Generator().get_state()}
ABOUT: dict[str, Any] = {"method": "difffit", "training": {"learning_rate": 1e-3, "clip": None}, "classes": ("a", "b")}


def test_a_checkpoint_gives_back_what_went_in() -> None:
    found = unpack(pack(STATE, ABOUT), ABOUT)
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in STATE.items())


def test_another_runs_checkpoint_is_refused() -> None:
    with pytest.raises(CheckpointInvalid, match="belongs to a run with other settings"):
        unpack(pack(STATE, ABOUT), {**ABOUT, "training": {"learning_rate": 2e-3, "clip": None}})


def test_settings_that_a_release_did_not_have_yet_take_the_default() -> None:
    older = {**ABOUT, "training": {"learning_rate": 1e-3}}
    defaults = {"training": {"learning_rate": 5.0, "clip": None}}
    assert unpack(pack(STATE, older), ABOUT, defaults).keys() == STATE.keys()
    with pytest.raises(CheckpointInvalid, match="other settings"):
        unpack(pack(STATE, older), {**ABOUT, "training": {"learning_rate": 1e-3, "clip": 1.0}}, defaults)
    with pytest.raises(CheckpointInvalid, match="other settings"):
        unpack(pack(STATE, older), ABOUT, {})


def test_a_checkpoint_of_the_first_version_names_none() -> None:
    data = save(dict(STATE), metadata={"about": json.dumps(ABOUT)})
    assert unpack(data, ABOUT).keys() == STATE.keys()


def test_a_later_releases_checkpoint_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pack(STATE, ABOUT)
    monkeypatch.setattr(checkpoint, "VERSION", checkpoint.VERSION - 1)
    with pytest.raises(CheckpointInvalid, match="later release"):
        unpack(data, ABOUT)


def test_the_last_readable_checkpoint_is_found() -> None:
    def fetch(key: str, sha256: str) -> bytes:
        if key == "missing":
            raise NotFound("object", key)
        if key == "away":
            raise StorageUnavailable("reset")
        data = {"good": pack(STATE, ABOUT), "other": pack(STATE, {}), "cut": pack(STATE, ABOUT)[:-9], "damaged": b""}
        if sha256 != "sha256":
            raise ChecksumMismatch
        return data[key]

    def found(*keys: str) -> Resume:
        return last_readable(fetch, [(key, "x" if key == "damaged" else "sha256") for key in keys], ABOUT, {})

    assert (found("good").step, found("good").reasons) == (3, [])
    for key, reason in (("missing", "is missing"), ("damaged", "is damaged"), ("other", "other"), ("cut", "cannot be")):
        first, none = found(key, "good"), found(key, key)
        assert (first.step, first.checkpoint, len(first.reasons)) == (3, ("good", "sha256"), 1)
        assert reason in first.reasons[0]
        assert (none.step, none.state, none.checkpoint, len(none.reasons)) == (0, None, None, 2)
    assert (found().state, found().reasons) == (None, [])
    with pytest.raises(StorageUnavailable):  # it waits: its checkpoint is still there
        found("away", "good")


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
    ids=itertools.count(),  # not the bytes, whose order of fields differs between processes
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
