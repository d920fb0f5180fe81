"""Measures distances between sets of images: by the classifier's features, and by the features of networks that were
trained on ImageNet, if these networks are available."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from core.ml.evaluation.classifier import IMAGE_SIZE, WEIGHTS, Classifier, load_classifier
from core.ml.evaluation.frechet import Statistics, frechet_distance
from core.ml.evaluation.imagenet import ImageNet
from core.ml.evaluation.inception import RESIZING, Inception

SHUFFLES = 8
"""Number of random splits into halves, whose distances are averaged."""


DISTANCES = ("feature distance", "ImageNet distance", "FID")
"""Names of the distances: by the features of the classifier, of the ImageNet network, and of Inception."""


@dataclass(frozen=True)
class Yardstick:
    name: str
    """One of `DISTANCES`."""
    features: Callable[[Tensor], Tensor]
    """Feature extractor: images [B, 3, S, S] uint8 -> [B, D]"""
    digest: str
    """Digest of the network's weights, followed by how their input is prepared if that has ever changed."""
    cache: Path = Path("build/statistics")

    def distance(self, pictures: Tensor, real: Tensor) -> float:
        return frechet_distance(Statistics.of(self.features(pictures)), self.of_real(real))

    def of_real(self, real: Tensor) -> Statistics:
        """Returns the feature statistics of a set of real images. They are cached in files by the digests of the images
        and of the network."""
        shape = str(tuple(real.shape)).encode()
        digest = hashlib.sha256(self.digest.encode() + shape + real.contiguous().numpy().tobytes()).hexdigest()
        path = self.cache / f"{digest}.safetensors"
        if path.is_file():
            return Statistics.load(path)
        statistics = Statistics.of(self.features(real))
        statistics.save(path)
        return statistics

    def between_halves(self, real: Tensor) -> float:
        return between_halves(self.features(real))


def between_halves(features: Tensor) -> float:
    """Returns the distance between random halves of the features [N, D] of real images, which shows how large a
    distance chance alone causes in sets this small."""
    generator, distances = torch.Generator().manual_seed(0), []
    for _ in range(SHUFFLES):
        first, second = features[torch.randperm(len(features), generator=generator)].tensor_split(2)
        distances.append(frechet_distance(Statistics.of(first), Statistics.of(second)))
    return sum(distances) / SHUFFLES


@dataclass(frozen=True)
class Judges:
    """Networks that score images: the classifier with its metadata, the ImageNet network if it is installed, and
    Inception if its weights are given."""

    folder: Path | None = None
    """Folder of the classifier; None takes the classifier that ships with the project."""
    inception: Path | None = None
    device: torch.device | None = None
    """Device of Inception and of the ImageNet network, the CPU by default. The classifier is small and always runs on
    the CPU."""

    @cached_property
    def loaded(self) -> tuple[Classifier, dict[str, Any]]:
        return load_classifier(self.folder)

    @property
    def classifier(self) -> Classifier:
        return self.loaded[0]

    @cached_property
    def digest(self) -> str:
        import core.ml.evaluation

        folder = self.folder or Path(core.ml.evaluation.__path__[0])
        return hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()

    @cached_property
    def yardsticks(self) -> list[Yardstick]:
        classifier, imagenet, inception = DISTANCES
        result = [Yardstick(classifier, lambda pictures: self.classifier.judge(small(pictures)).features,
                           self.digest)]  # fmt: skip
        if self.imagenet is not None:
            result.append(Yardstick(imagenet, self.imagenet.features, self.imagenet.digest))
        if self.inception is not None and self.inception_digest is not None:
            features = Inception(self.inception, self.device).features
            result.append(Yardstick(inception, features, f"{self.inception_digest}, {RESIZING}"))
        return result

    @cached_property
    def imagenet(self) -> ImageNet | None:
        """Returns the ImageNet network, or None if its packages are not installed."""
        try:
            return ImageNet(self.device)
        except ModuleNotFoundError:
            return None

    @property
    def digests(self) -> dict[str, str | None]:
        """Digests of the networks, which a record of measurements stores; None for a network that is missing."""
        imagenet = self.imagenet.digest if self.imagenet else None
        return {"classifier": self.digest, "imagenet": imagenet, "inception": self.inception_digest}

    @cached_property
    def inception_digest(self) -> str | None:
        return None if self.inception is None else hashlib.sha256(self.inception.read_bytes()).hexdigest()


def small(pictures: Tensor) -> Tensor:
    """Returns the images at the size that the classifier was trained on, resized by area averaging; `pictures` is
    [B, 3, S, S] uint8."""
    if pictures.shape[-1] == IMAGE_SIZE:
        return pictures
    return F.interpolate(pictures.float(), (IMAGE_SIZE, IMAGE_SIZE), mode="area").round().to(torch.uint8)
