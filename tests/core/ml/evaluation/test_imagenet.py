"""The ImageNet yardstick: published weights, and features that tell drawings from noise."""

import pytest
import torch

from core.ml.bundled import sample_domain_folder
from core.ml.evaluation.drawings import read_drawings
from core.ml.evaluation.frechet import Statistics, frechet_distance
from core.ml.evaluation.imagenet import FEATURES, ImageNet


@pytest.fixture(scope="module")
def network() -> ImageNet:
    return ImageNet()


def test_weights_are_the_published_ones(network: ImageNet) -> None:
    """The file's name ends with the start of its digest, as torch's files do."""
    assert network.path.stem.rpartition("-")[2] == network.digest[:8]


def test_features_do_not_depend_on_the_batch(network: ImageNet) -> None:
    images = torch.randint(0, 256, (5, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    features = network.features(images)
    assert features.shape == (5, FEATURES)
    torch.testing.assert_close(features, network.features(images, batch_size=2), rtol=1e-3, atol=1e-4)


def test_halves_of_real_drawings_are_nearer_to_each_other_than_to_noise(network: ImageNet) -> None:
    real = read_drawings(sample_domain_folder()).pixels
    noise = torch.randint(0, 256, real[::2].shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    first, second, other = (Statistics.of(network.features(images)) for images in (real[::2], real[1::2], noise))
    assert frechet_distance(first, second) < frechet_distance(first, other) / 3
