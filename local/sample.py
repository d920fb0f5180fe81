"""Generates images on this machine: with the serving engine or, for methods that the engine does not serve, with the
model's reference forward pass."""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from core.artifact.base import BaseDescription
from core.artifact.errors import InvalidRequest, UnknownClass
from core.artifact.file import Artifact, check_fits, decode
from core.artifact.manifest import Manifest
from core.artifact.png import encode_png, image_settings
from core.artifact.sampling import SamplingSettings
from core.artifact.sites import METHODS
from core.ml.serving.forwards import GPU_SIZES
from core.ml.serving.request import ImageRequest
from core.ml.serving.resident import Resident
from core.service.config import get_settings
from difffit.cli.base import State
from difffit.cli.views import steps_bar
from difffit.pictures import file_name, read_settings
from local.alone import draw_alone
from local.base import load

_AT_ONCE = 64
"""Images per request to the engine. The number is small, so that finished images are written to disk early."""


@dataclass
class Run:
    adapter: Path | None
    class_names: list[str]
    """Classes to generate; empty for all classes."""
    count: int
    seed: int
    chosen: Mapping[str, Any]
    """The chosen sampling settings. The others get the defaults of `SamplingSettings.completed`."""
    output: Path
    base: str | None
    device: str | None

    def sample(self, state: State) -> list[Path]:
        """Generates the images that do not exist yet, and returns the paths of all images, class by class. Raises
        ArtifactInvalid, BaseMismatch, UnknownClass, BaseMissing."""
        data = self.adapter.read_bytes() if self.adapter else b""
        artifact = decode(data, limit_bytes=len(data)) if self.adapter else None
        resident = self._resident()
        try:
            known = artifact.manifest.class_names if artifact else resident.base.description.class_names
            classes = [_class_id(name, known) for name in self.class_names] or list(range(len(known)))
            sampling = _sampling(self.chosen, artifact.manifest if artifact else None, resident.base.description)
            with steps_bar(state, "Generating") as bar:
                task = bar.add_task("", total=self.count * len(classes), note="images")
                paths = []
                for id in classes:
                    for first in range(0, self.count, _AT_ONCE):
                        offsets = range(first, min(first + _AT_ONCE, self.count))
                        paths += self._some(resident, artifact, sampling, id, known[id], offsets)
                        bar.update(task, advance=len(offsets))
            return paths
        finally:
            resident.engine.stop()

    def _resident(self) -> Resident:
        settings = get_settings()
        return Resident(
            load(settings, self.base, self.device),
            adapter_slots=settings.max_batch_rows or GPU_SIZES[-1],  # fewer would lower `max_rows`
            max_rows=settings.max_batch_rows,
            exact=settings.exact,
            fp8=settings.fp8,
            host_cache_bytes=settings.host_cache_bytes,
            max_waiting=settings.max_waiting_images,
            training_share=0.0,
        )

    def _some(
        self,
        resident: Resident,
        artifact: Artifact | None,
        sampling: SamplingSettings,
        id: int,
        name: str,
        offsets: range,
    ) -> list[Path]:
        """Generates and writes the images of class `id` that do not exist yet, and returns the paths of all images.
        Image k has the seed `self.seed` + k, for each k in `offsets`."""
        adapter, base = artifact.sha256 if artifact else None, resident.base.description.digest
        wanted = {
            seed: image_settings(sampling, adapter=adapter, base=base, class_name=name, seed=seed)
            for seed in (self.seed + offset for offset in offsets)
        }
        paths = {seed: self.output / f"{id:03}-{file_name(name, seed)}" for seed in wanted}
        missing = tuple(seed for seed in wanted if not _is_drawn(paths[seed], wanted[seed]))
        for seed, pixels in zip(missing, self._draw(resident, artifact, sampling, id, missing), strict=True):
            self.output.mkdir(parents=True, exist_ok=True)
            paths[seed].write_bytes(encode_png(Image.fromarray(pixels.numpy()), wanted[seed]))
        return list(paths.values())

    def _draw(
        self,
        resident: Resident,
        artifact: Artifact | None,
        sampling: SamplingSettings,
        id: int,
        seeds: tuple[int, ...],
    ) -> list[torch.Tensor]:
        """Generates one image of class `id` for each seed, and returns their 8-bit pixels, [S, S, 3] each."""
        if not seeds:
            return []
        if artifact is not None and artifact.manifest.method not in METHODS:
            check_fits(artifact, resident.base.description)
            return draw_alone(resident.base, artifact, id, sampling, seeds)
        request = ImageRequest(
            id="local",
            tenant="local",
            adapter=artifact.sha256 if artifact else None,
            class_id=id,
            base_class=resident.base.description.labels_of(artifact.manifest.class_names if artifact else ()).get(id),
            seeds=seeds,
            sampling=sampling,
            scale=resident.base.description.scale_of(artifact.manifest.image_size) if artifact else 1,
        )
        file = self.adapter
        load = (
            None if artifact is None or file is None else lambda: resident.tensors(artifact.sha256, file.read_bytes())
        )
        return resident.engine.submit(request, load).result().images


def _sampling(chosen: Mapping[str, Any], manifest: Manifest | None, base: BaseDescription) -> SamplingSettings:
    """Returns the chosen sampling settings for images of an adapter, or of the base if there is no manifest, completed
    as the server completes them. Raises InvalidRequest."""
    scale = base.scale_of(manifest.image_size) if manifest else 1
    interpolates = scale == 1 and (manifest is None or manifest.method in METHODS)
    learned = manifest.learned_guidance if manifest else None
    try:
        sampling = SamplingSettings.completed(chosen, learned, interpolates=interpolates)
    except ValueError as error:
        raise InvalidRequest("sampling", str(error)) from error
    sampling.check_size(scale)
    return sampling


def _class_id(name: str, known: tuple[str, ...]) -> int:
    composed = unicodedata.normalize("NFC", name)
    if composed not in known:
        raise UnknownClass(name, list(known))
    return known.index(composed)


def _is_drawn(path: Path, settings: dict[str, Any]) -> bool:
    """Returns whether the file `path` is an image that was generated with exactly these settings."""
    try:
        return read_settings(path.read_bytes()) == settings
    except (OSError, ValueError):
        return False
