"""Measures how close generated images are to real ones: `difffit evaluate`."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.artifact.errors import InvalidRequest
from core.ml.evaluation.classifier import IMAGE_SIZE
from core.ml.evaluation.drawings import to_bytes
from core.ml.evaluation.frechet import Statistics, frechet_distance
from core.ml.evaluation.yardsticks import Judges, between_halves
from core.service.config import get_settings
from core.service.datasets.images import Refused, read_image
from difffit import Client
from difffit.cli.arguments import domain_id
from difffit.cli.base import State
from difffit.cli.views import steps_bar
from difffit.errors import InvalidInput
from difffit.pictures import read_settings

_FEWEST = 4
"""Min number of images: the distance between halves needs two in each half."""
_AT_ONCE = 64
"""Max images of one generation on a server."""
_SHOWN = ("steps", "guidance_scale", "guidance_adapter_scale", "adapter_scale", "sampler")
"""Names of the sampling settings in the summary, where the images contain them."""


@dataclass
class Run:
    generated: str
    """A domain's name or id, whose images are to be generated, or a folder of generated images."""
    real: Path
    """Folder of real images, at any depth. Those in a folder with the name of a class belong to that class."""
    count: int | None
    """Number of images to generate; None for as many as there are real images."""
    seed: int
    chosen: Mapping[str, Any]
    """The chosen settings of the generations: the version, and sampling settings."""
    output: Path
    """Folder for the images that are generated."""
    inception: Path | None

    def evaluate(self, state: State) -> dict[str, Any]:
        """Returns a summary for the command's output: the distances, the numbers of images, and the settings. Raises
        InvalidRequest if a folder has fewer than four readable images, and the errors of a server."""
        folder = Path(self.generated)
        if not folder.is_dir():
            folder = self._generate(state)
        generated = _pixels(state, folder)
        size = generated.shape[-1]
        real = _pixels(state, self.real, size)
        judges = Judges(inception=self.inception)
        yardsticks = judges.yardsticks if size == IMAGE_SIZE else judges.yardsticks[1:]  # the first knows drawings only
        if not yardsticks:
            raise InvalidRequest("--inception", f"is needed for images of {size} pixels: no other network is installed")
        distances, halves = {}, {}
        for yardstick in yardsticks:
            features = yardstick.features(real)
            distance = frechet_distance(Statistics.of(yardstick.features(generated)), Statistics.of(features))
            distances[yardstick.name], halves[yardstick.name] = round(distance, 3), round(between_halves(features), 3)
        return {
            "generated": len(generated),
            "real": len(real),
            "image_size": size,
            "distances": distances,
            "between_halves_of_the_real": halves,
            "settings": _settings(folder),
            "folder": str(folder),
        }

    def _generate(self, state: State) -> Path:
        """Generates images of the domain, and returns their folder. Classes are as frequent as in the real images, or
        equally frequent if no folder of real images has the name of a class."""
        if self.output.is_dir() and any(self.output.iterdir()):
            raise InvalidRequest("--output", f"{self.output} is not empty, and its files would be measured too")
        client = state.client
        domain = domain_id(client, self.generated)
        names = [path.parent.name for path in _files(self.real)]
        classes = _class_names(client, domain, self.chosen.get("adapter_id"))
        labels = [name for name in names if name in classes] or list(classes)
        total = self.count or len(names)
        wanted = Counter(labels[index * len(labels) // total] for index in range(total))
        with steps_bar(state, "Generating") as bar:
            task = bar.add_task("", total=total, note="images")
            for name, count in wanted.items():
                for first in range(0, count, _AT_ONCE):
                    some = min(_AT_ONCE, count - first)
                    for picture in client.generate(
                        domain, class_name=name, count=some, seed=self.seed + first, **self.chosen
                    ):
                        picture.save(self.output)
                    bar.update(task, advance=some)
        return self.output


def _class_names(client: Client, domain: str, adapter: str | None) -> tuple[str, ...]:
    """Returns the class names of a version, by default of the domain's active version."""
    version = adapter or client.domains.get(domain).active_adapter_id
    if version is None:
        raise InvalidRequest("DOMAIN", "has no active version yet: fine-tune it first")
    return tuple(client.adapters.get(version).class_names)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))


def _pixels(state: State, folder: Path, size: int | None = None) -> Tensor:
    """Returns the images of a folder, [K, 3, S, S] uint8, cropped and resized as for training to `size`, by default to
    the side of the first. Notes each file that is not used. Raises InvalidRequest."""
    images, max_pixels = [], get_settings().max_image_pixels
    for path in _files(folder):
        try:
            square = read_image(path.read_bytes(), max_pixels)
        except Refused as error:
            state.note(f"Not used: {path.relative_to(folder)}. {error.detail}")
            continue
        size = size or square.width
        images.append(to_bytes([square], size))  # at once, so that memory holds no large images
    if len(images) < _FEWEST:
        raise InvalidRequest(str(folder), f"has {len(images)} readable images, a distance needs at least {_FEWEST}")
    return torch.cat(images)


def _settings(folder: Path) -> dict[str, Any]:
    """Returns the sampling settings that the first image contains; empty if it is not from this software."""
    try:
        stored = read_settings(_files(folder)[0].read_bytes())
    except InvalidInput:
        return {}
    return {name: stored[name] for name in _SHOWN if name in stored}
