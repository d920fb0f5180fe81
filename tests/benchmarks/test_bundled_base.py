"""The benchmark of the bundled base: the classes that it generates, and both of its parts on a tiny base."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from benchmarks.bundled_base.domain import Domain, unseen_openmoji
from benchmarks.bundled_base.pictures import Artist, alike
from benchmarks.bundled_base.quality import Quality, size
from benchmarks.serving.subjects import random_autoencoder
from core.artifact.base import BaseDescription
from core.artifact.sampling import SamplingSettings
from core.ml.bundled import mini_base_folder, sample_domain_folder
from core.ml.evaluation.drawings import Drawings, is_held_out, read_drawings
from core.ml.evaluation.yardsticks import Judges, Yardstick
from core.ml.model.checkpoint import LoadedBase
from tests.core.ml.model.small import CONFIG, random_dit

CLASSES = ("bird", "fruit", "heart", "smiling-face")


@pytest.fixture(scope="module")
def artist() -> Artist:
    """Returns an artist on a base with random weights and four of the classes."""
    config = replace(CONFIG, num_classes=len(CLASSES), input_size=16)
    coder = random_autoencoder((8, 8, 8), torch.device("cpu"))
    description = BaseDescription(
        name="small", digest="0" * 64, config=config, image_size=64, licence="none", parameters=1, class_names=CLASSES
    )
    return Artist.of_base(LoadedBase(random_dit(config), coder, description), SamplingSettings(steps=2))


def as_base_drawings() -> Drawings:
    """Returns the sample domain's birds, fruits and hearts, as if the base had been trained on them."""
    sample = read_drawings(sample_domain_folder())
    names = CLASSES[:3]
    chosen = torch.tensor([sample.class_names[label] in names for label in sample.labels.tolist()])
    part = sample.subset(chosen.nonzero().flatten())
    labels = torch.tensor([names.index(sample.class_names[label]) for label in part.labels.tolist()])
    return replace(part, labels=labels, class_names=names)


def test_generated_classes_have_the_frequencies_of_the_drawings() -> None:
    labels = torch.tensor([2] * 10 + [0] * 30 + [5] * 60)
    assert alike(labels, 10).bincount().tolist() == [3, 0, 1, 0, 0, 6]
    assert alike(torch.arange(4), 8).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_bundled_base_is_within_its_size_limit() -> None:
    assert size(mini_base_folder()).verdict == "pass"


def test_distance_between_halves_of_a_set_is_small(tmp_path: Path) -> None:
    points = torch.randn(400, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    yardstick = Yardstick("distance", lambda pictures: pictures.flatten(1), "network", tmp_path)
    assert yardstick.between_halves(points) < 1 < yardstick.distance(points, points + 1)


def test_features_of_a_real_set_are_computed_once_per_network(tmp_path: Path) -> None:
    inputs: list[Tensor] = []

    def features(pictures: Tensor) -> Tensor:
        inputs.append(pictures)
        return pictures.flatten(1).float()

    first, second = torch.randint(0, 255, (2, 30, 3, 2, 2), generator=torch.Generator().manual_seed(0)).byte()
    yardstick = Yardstick("distance", features, "network", tmp_path)
    distances = [yardstick.distance(first, second) for _ in range(3)]
    assert distances[1:] == [pytest.approx(distances[0])] * 2
    assert len([pictures for pictures in inputs if pictures is second]) == 1
    Yardstick("distance", features, "another network", tmp_path).of_real(second)
    yardstick.of_real(first)
    assert len(list(tmp_path.iterdir())) == 3


def test_unseen_images_exclude_those_of_the_fine_tune(tmp_path: Path) -> None:
    for name in ("heart/red-heart", "heart/two-hearts", "smiling-face/money-mouth-face", "train/tram"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (64, 64), "red").save(tmp_path / f"{name}.png")
    unseen = unseen_openmoji(tmp_path)
    assert {"two-hearts", "money-mouth-face"} <= set(unseen.emoji)
    assert not {"red-heart", "tram"} & set(unseen.emoji)
    assert all(is_held_out(name) for name in set(unseen.emoji) - {"two-hearts", "money-mouth-face"})
    index = unseen.emoji.index("money-mouth-face")
    assert unseen.class_names[int(unseen.labels[index])] == "smiling-face"


def test_both_parts_measure_figures_and_write_pictures(artist: Artist, tmp_path: Path) -> None:
    judges = Judges()
    figures = list(Quality(artist, judges, as_base_drawings(), 12, tmp_path).figures())
    (tmp_path / "openmoji" / "heart").mkdir(parents=True)
    Image.new("RGB", (64, 64), "red").save(tmp_path / "openmoji" / "heart" / "two-hearts.png")
    figures += Domain(artist, judges, tmp_path / "openmoji", 12, 2, tmp_path).figures()
    names = [figure.name for figure in figures]
    assert "class agreement" in names
    assert "feature distance, fall" in names
    assert all(torch.tensor(figure.value).isfinite() for figure in figures)
    for name in ("base", "domain", "base-neighbours", "domain-neighbours"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.width > 200
