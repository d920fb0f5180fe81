"""Checkpoints of a run: complete, only for the same run, and never partly written."""

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


def test_checkpoint_returns_the_stored_state() -> None:
    state = unpack(pack(STATE, ABOUT), ABOUT)
    assert state.keys() == STATE.keys()
    assert all(torch.equal(state[name], tensor) and state[name].dtype == tensor.dtype for name, tensor in STATE.items())


def test_checkpoint_of_another_run_is_rejected() -> None:
    with pytest.raises(CheckpointInvalid, match="belongs to a run with other settings"):
        unpack(pack(STATE, ABOUT), {**ABOUT, "training": {"learning_rate": 2e-3, "clip": None}})


def test_settings_missing_in_an_older_checkpoint_take_their_defaults() -> None:
    older = {**ABOUT, "training": {"learning_rate": 1e-3}}
    defaults = {"training": {"learning_rate": 5.0, "clip": None}}
    assert unpack(pack(STATE, older), ABOUT, defaults).keys() == STATE.keys()
    with pytest.raises(CheckpointInvalid, match="other settings"):
        unpack(pack(STATE, older), {**ABOUT, "training": {"learning_rate": 1e-3, "clip": 1.0}}, defaults)
    with pytest.raises(CheckpointInvalid, match="other settings"):
        unpack(pack(STATE, older), ABOUT, {})


def test_checkpoint_without_a_version_is_read() -> None:
    data = save(dict(STATE), metadata={"about": json.dumps(ABOUT)})
    assert unpack(data, ABOUT).keys() == STATE.keys()


def test_checkpoint_of_a_later_release_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pack(STATE, ABOUT)
    monkeypatch.setattr(checkpoint, "VERSION", checkpoint.VERSION - 1)
    with pytest.raises(CheckpointInvalid, match="later release"):
        unpack(data, ABOUT)


def test_unreadable_checkpoints_are_skipped_with_a_reason() -> None:
    def fetch(key: str, sha256: str) -> bytes:
        if key == "missing":
            raise NotFound("object", key)
        if key == "away":
            raise StorageUnavailable("reset")
        data = {"good": pack(STATE, ABOUT), "other": pack(STATE, {}), "cut": pack(STATE, ABOUT)[:-9], "damaged": b""}
        if sha256 != "sha256":
            raise ChecksumMismatch
        return data[key]

    def resume(*keys: str) -> Resume:
        return last_readable(fetch, [(key, "x" if key == "damaged" else "sha256") for key in keys], ABOUT, {})

    assert (resume("good").step, resume("good").reasons) == (3, [])
    for key, reason in (("missing", "is missing"), ("damaged", "is damaged"), ("other", "other"), ("cut", "cannot be")):
        readable, unreadable = resume(key, "good"), resume(key, key)
        assert (readable.step, readable.checkpoint, len(readable.reasons)) == (3, ("good", "sha256"), 1)
        assert reason in readable.reasons[0]
        assert (unreadable.step, unreadable.state, unreadable.checkpoint, len(unreadable.reasons)) == (0, None, None, 2)
    assert (resume().state, resume().reasons) == (None, [])
    with pytest.raises(StorageUnavailable):  # the checkpoint still exists, so the fine-tune waits
        resume("away", "good")


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
    ids=itertools.count(),  # not the bytes: the order of their fields differs between processes
)
def test_damaged_checkpoints_are_rejected(data: bytes) -> None:
    with pytest.raises(CheckpointInvalid, match="cannot be read"):
        unpack(data, ABOUT)


def test_file_is_replaced_atomically(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.safetensors"
    write_file(file, b"first")
    with file.open("rb") as reader:
        write_file(file, b"second")
        assert reader.read() == b"first", "a reader of the old file must still see all of it"
    assert file.read_bytes() == b"second"
    assert list(tmp_path.iterdir()) == [file]
