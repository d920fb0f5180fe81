"""Checkpoints of a training run: safetensors, never pickle, and never half-written."""

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
"""Version of the plan's format. Checkpoints of the first version have none. A release reads all earlier versions;
fields that a checkpoint lacks get today's defaults, which equal the behaviour of its release."""


def pack(state: Mapping[str, Tensor], plan: Mapping[str, Any]) -> bytes:
    """Returns a trainer's state and the settings that it belongs to, as bytes."""
    return save(dict(state), metadata={"about": json.dumps(plan, sort_keys=True), "version": str(VERSION)})


def unpack(data: bytes, plan: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> dict[str, Tensor]:
    """Returns the state of a checkpoint. `defaults` add the settings that the checkpoint's release did not have yet.

    Raises CheckpointInvalid when it is damaged or belongs to something else.
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
    """State that a run continues from, and the reasons against later checkpoints."""

    state: dict[str, Tensor] | None
    """None starts from scratch."""
    checkpoint: tuple[str, str] | None
    """Key and SHA-256 of the checkpoint with this state."""
    reasons: list[str]
    """Reason for each later checkpoint that cannot be used."""

    @property
    def step(self) -> int:
        return 0 if self.state is None else int(self.state["steps_done"])


def last_readable(
    fetch: Callable[[str, str], bytes],
    checkpoints: Sequence[tuple[str, str]],
    plan: Mapping[str, Any],
    defaults: Mapping[str, Any],
) -> Resume:
    """Reads the first of these checkpoints, newest first, that is there, whole and this run's. Each is a key and a
    SHA-256. Raises what `fetch` raises beyond NotFound and ChecksumMismatch."""
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
    """Replaces the file in one move, after its bytes are on the disk."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
