"""Checkpoints of a training run: safetensors, never pickle, and never half-written."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from core.errors import CheckpointInvalid


def pack(state: Mapping[str, Tensor], about: Mapping[str, Any]) -> bytes:
    """A trainer's state and what it belongs to, as bytes."""
    return save(dict(state), metadata={"about": json.dumps(about, sort_keys=True)})


def unpack(data: bytes, about: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state of a checkpoint. Raises CheckpointInvalid when it is damaged or belongs to something else."""
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        found = json.loads(header["__metadata__"]["about"])
        state = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointInvalid(f"The checkpoint cannot be read ({type(error).__name__}: {error}).") from error
    if found != json.loads(json.dumps(about)):
        raise CheckpointInvalid("The checkpoint belongs to a run with other settings.")
    return state


def write_file(path: Path, data: bytes) -> None:
    """Replaces the file in one move, after its bytes are on the disk."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
