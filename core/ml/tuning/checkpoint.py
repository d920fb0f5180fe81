"""Checkpoint files of a training run. They are safetensors files, without pickle, and are replaced atomically."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from core.artifact.errors import ChecksumMismatch, NotFound
from core.ml.errors import CheckpointInvalid

VERSION = 2
"""Version of the format of the settings in a checkpoint. Checkpoints of version 1 do not store their version. A release
reads all earlier versions: settings that a checkpoint lacks get defaults that equal the behaviour of its release."""

BEFORE = "steps_before"
"""Name in the state of a GuidanceTrainer: the number of steps that the trainer before it made."""


def steps_of(state: Mapping[str, Tensor]) -> int:
    """Returns the number of a fine-tune's steps, by all of its trainers, in the state of a checkpoint; 0 without a
    state."""
    return sum(int(state[name]) for name in ("steps_done", BEFORE) if name in state)


def pack(state: Mapping[str, Tensor], plan: Mapping[str, Any]) -> bytes:
    """Returns a checkpoint file with a trainer's `state`, and with the settings of its run (`plan`) as metadata."""
    return save(dict(state), metadata={"about": json.dumps(plan, sort_keys=True), "version": str(VERSION)})


def unpack(data: bytes, plan: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> dict[str, Tensor]:
    """Returns the trainer's state from a checkpoint file. `defaults` are the values of settings that the checkpoint's
    release did not have yet.

    Raises CheckpointInvalid when the file is damaged, is of a later release, or has other settings than `plan`.
    """
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        metadata = header["__metadata__"]
        stored, version = json.loads(metadata["about"]), int(metadata.get("version", "1"))
        state = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointInvalid(f"The checkpoint cannot be read ({type(error).__name__}: {error}).") from error
    if version > VERSION:
        raise CheckpointInvalid("The checkpoint was made by a later release. Upgrade first.")
    if _completed(stored, defaults or {}) != json.loads(json.dumps(plan)):
        raise CheckpointInvalid("The checkpoint belongs to a run with other settings.")
    return state


@dataclass(frozen=True)
class Resume:
    """State that a training run continues from, and why later checkpoints could not be used."""

    state: dict[str, Tensor] | None
    """State of the trainer; None to start from scratch."""
    checkpoint: tuple[str, str] | None
    """Storage key and SHA-256 of the checkpoint that the state was read from."""
    reasons: list[str]
    """For each later checkpoint, the reason why it could not be used."""

    @property
    def step(self) -> int:
        return steps_of(self.state or {})


def last_readable(
    fetch: Callable[[str, str], bytes],
    checkpoints: Sequence[tuple[str, str]],
    plan: Mapping[str, Any],
    defaults: Mapping[str, Any],
) -> Resume:
    """Returns the state of the newest checkpoint that exists, is not damaged and has the settings of `plan`.
    `checkpoints` are pairs of a storage key and a SHA-256, newest first. Raises any error of `fetch` other than
    NotFound and ChecksumMismatch."""
    reasons: list[str] = []
    for key, sha256 in checkpoints:
        try:
            return Resume(unpack(fetch(key, sha256), plan, defaults), (key, sha256), reasons)
        except NotFound:
            reasons.append("The checkpoint is missing.")
        except ChecksumMismatch:
            reasons.append("The checkpoint is damaged.")
        except CheckpointInvalid as error:
            reasons.append(error.detail)
    return Resume(None, None, reasons)


def _completed(stored: Any, defaults: Mapping[str, Any]) -> Any:
    if not isinstance(stored, dict):
        return stored
    nested = {
        name: _completed(stored.get(name, {}), value) for name, value in defaults.items() if isinstance(value, dict)
    }
    return {**defaults, **stored, **nested}


def write_file(path: Path, data: bytes) -> None:
    """Writes a file atomically: writes a temporary file, syncs it to the disk, and renames it to `path`."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
