"""Exports a domain as a plain model: the adapter is folded into the base's weights, so that other programs can run the
domain."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from core.artifact.errors import InvalidRequest
from core.artifact.file import Artifact, check_fits, decode
from core.ml.model.checkpoint import LoadedBase, save_base
from core.ml.model.export import domain_dit, export_pipeline
from core.service.config import get_settings
from local.base import load

CARD = "difffit.json"
"""File in an exported folder that says what was exported, with the licence of the base's weights."""


@dataclass
class Export:
    adapter: Path
    output: Path
    format: str
    """`diffusers` or `dit`."""
    base: str | None

    def write(self) -> dict[str, Any]:
        """Writes the folder, and returns a summary for the command's output. Loads the base on the CPU, in fp32, since
        bf16 on a GPU would lose digits. Raises ArtifactInvalid, BaseMismatch, BaseMissing, InvalidRequest."""
        data = self.adapter.read_bytes()
        artifact = decode(data, limit_bytes=len(data))
        if artifact.manifest.learned_guidance is not None:
            reason = "it has learned guidance, which other programs cannot apply. Export a version without it"
            raise InvalidRequest("ADAPTER", reason)
        if self.output.exists() and (not self.output.is_dir() or any(self.output.iterdir())):
            raise InvalidRequest("--output", f"{self.output} exists already; name a new folder")
        base = load(get_settings(), self.base, "cpu")
        check_fits(artifact, base.description)
        with _explained():
            self._write_model(artifact, base)
        card = _card(artifact, base)
        (self.output / CARD).write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return {"folder": str(self.output), "format": self.format, **card}

    def _write_model(self, artifact: Artifact, base: LoadedBase) -> None:
        tensors = {name: torch.from_numpy(array) for name, array in artifact.tensors.items()}
        names, description = artifact.manifest.class_names, base.description
        domain = domain_dit(base.dit, tensors, description.scale_of(artifact.manifest.image_size))
        if self.format == "diffusers":
            export_pipeline(domain, base.autoencoder, self.output, names)
            return
        save_base(
            self.output,
            domain,
            base.autoencoder,
            name=f"{description.name} with {artifact.sha256[:12]}",
            licence=description.licence,
            class_names=names,
            dtype=torch.float32,
            autoencoder_dtype=torch.float32,
        )


@contextmanager
def _explained() -> Iterator[None]:
    """Converts the ValueError of an adapter that the format cannot express to InvalidRequest."""
    try:
        yield
    except ValueError as error:
        raise InvalidRequest("--format", f"{error}. Choose another format, or another adapter") from error


def _card(artifact: Artifact, base: LoadedBase) -> dict[str, Any]:
    return {
        "adapter": artifact.sha256,
        "base": base.description.name,
        "base_digest": base.description.digest,
        "licence": base.description.licence,
        "class_names": list(artifact.manifest.class_names),
    }
