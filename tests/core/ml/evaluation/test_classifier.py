"""The bundled classifier, its file, and a training of a few steps."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from core.ml.bundled import mini_base_folder, sample_domain_folder
from core.ml.evaluation.classifier import FEATURES, WEIGHTS, Classifier, load_classifier, save_classifier
from core.ml.evaluation.drawings import Drawings, read_drawings
from core.ml.model.checkpoint import load_base
from recipes.classifier import Recipe, augment, train

COLOURS = torch.tensor([[220, 30, 30], [30, 200, 30], [40, 40, 220]])


@pytest.fixture(scope="module")
def bundled() -> Classifier:
    return load_classifier()[0]


@pytest.fixture(scope="module")
def openmoji() -> Drawings:
    return read_drawings(sample_domain_folder())


def coloured(count: int, size: int = 64) -> Drawings:
    """Returns discs in the colour of their class; those of the second set are smaller."""
    labels, sets = torch.arange(count) % 3, torch.arange(count) % 2
    axis = torch.linspace(-1, 1, size)
    radius = (axis[:, None].square() + axis.square()).sqrt()
    inside = radius < (0.9 - 0.5 * sets).view(-1, 1, 1, 1)  # [K, 1, S, S]
    pixels = torch.where(inside, COLOURS[labels].view(-1, 3, 1, 1), 255).to(torch.uint8)
    names = tuple(("large", "small")[index] for index in sets.tolist())
    return Drawings(pixels, labels, tuple(map(str, range(count))), names, ("red", "green", "blue"))


def test_bundled_classifier_has_the_classes_of_the_base_and_is_small(bundled: Classifier) -> None:
    base = load_base(mini_base_folder(), device=torch.device("cpu"), dtype=torch.float32).description
    assert set(bundled.class_names) == set(base.class_names)
    assert bundled.set_names == ("fluent", "noto", "openmoji", "twemoji")
    import core.ml.evaluation

    assert (Path(core.ml.evaluation.__path__[0]) / WEIGHTS).stat().st_size <= 2_000_000


def test_bundled_classifier_recognizes_the_sample_domain(bundled: Classifier, openmoji: Drawings) -> None:
    judged = bundled.judge(openmoji.pixels)
    assert judged.features.shape == (len(openmoji), FEATURES)
    for label, name in enumerate(openmoji.class_names):
        predicted = judged.classes[openmoji.labels == label]
        assert (predicted == bundled.class_names.index(name)).float().mean() > 0.6
    assert (judged.sets == bundled.set_names.index("openmoji")).float().mean() > 0.8


def test_batch_size_does_not_change_the_features(bundled: Classifier, openmoji: Drawings) -> None:
    whole, parts = bundled.judge(openmoji.pixels[:10]), bundled.judge(openmoji.pixels[:10], batch_size=3)
    assert torch.allclose(whole.features, parts.features, atol=1e-4)


def test_stored_classifier_computes_the_same_features(tmp_path: Path) -> None:
    torch.manual_seed(0)
    classifier = Classifier(("a", "b"), ("x",)).eval()
    save_classifier(tmp_path, classifier, {"held_out_accuracy": 0.5})
    stored, figures = load_classifier(tmp_path)
    assert (stored.class_names, stored.set_names, figures) == (("a", "b"), ("x",), {"held_out_accuracy": 0.5})
    pixels = coloured(4).pixels
    assert torch.allclose(stored.judge(pixels).features, classifier.judge(pixels).features, rtol=0.02, atol=0.02)


def test_training_learns_and_is_reproducible() -> None:
    drawings = coloured(48)
    torch.set_num_threads(1)
    recipe = Recipe(epochs=12, batch_size=12)
    first, second = train(drawings, recipe), train(drawings, recipe)
    judged = first.judge(drawings.pixels)
    assert (judged.classes == drawings.labels).all()
    assert torch.equal(judged.features, second.judge(drawings.pixels).features)


def test_augmented_pictures_have_a_white_background() -> None:
    def augmented(seed: int) -> Tensor:
        return augment(coloured(12).pixels, torch.Generator().manual_seed(seed))

    pictures = augmented(0)
    assert pictures.shape == (12, 3, 64, 64)
    assert (pictures.amin(), pictures.amax()) >= (-1, 0.99)
    assert pictures[:, :, 0, 0].min() == 1, "pixels moved in from outside must be white"
    assert torch.equal(pictures, augmented(0))
    assert not torch.equal(pictures, augmented(1))
