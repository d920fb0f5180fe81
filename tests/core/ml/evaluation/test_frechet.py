"""The Fréchet distance compared with torchmetrics and a closed form, also on sets without full rank."""

import math

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from core.ml.evaluation.frechet import Statistics, frechet_distance

FEATURES = 12


class Flat(nn.Module):
    """Network that returns pictures [B, 3, 2, 2] as their own features, so that torchmetrics measures the same ones."""

    num_features = FEATURES

    def forward(self, pictures: Tensor) -> Tensor:
        return pictures.flatten(1)


def features(count: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    """Returns correlated features, [count, FEATURES]."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(FEATURES, FEATURES, generator=generator)
    return shift + scale * torch.randn(count, FEATURES, generator=generator) @ mixing


def distance(first: Tensor, second: Tensor) -> float:
    return frechet_distance(Statistics.of(first), Statistics.of(second))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (features(500, 0), features(300, 1)),
        (features(500, 0), features(400, 0, scale=1.01)),
        (features(200, 0), features(200, 1, scale=30, shift=100)),
        (features(8, 0), features(9, 1)),  # fewer samples than features
    ],
)
def test_distance_equals_that_of_torchmetrics(first: Tensor, second: Tensor) -> None:
    theirs = FrechetInceptionDistance(feature=Flat(), input_img_size=(3, 2, 2)).set_dtype(torch.float64)
    theirs.update(first.double().view(-1, 3, 2, 2), real=True)
    theirs.update(second.double().view(-1, 3, 2, 2), real=False)
    assert distance(first, second) == pytest.approx(theirs.compute().item(), rel=1e-6)


def test_distance_of_independent_normals_equals_the_closed_form() -> None:
    first = Statistics(10, torch.zeros(2).double(), torch.diag(torch.tensor([1.0, 4.0]).double()))
    second = Statistics(10, torch.tensor([3.0, 0.0]).double(), torch.diag(torch.tensor([9.0, 16.0]).double()))
    assert frechet_distance(first, second) == pytest.approx(3**2 + (1 - 3) ** 2 + (2 - 4) ** 2)


@pytest.mark.parametrize("count", [4, 200])
def test_distance_of_a_set_to_itself_is_zero(count: int) -> None:
    same = features(count, 3)
    assert distance(same, same) == pytest.approx(0, abs=1e-5)


def test_distance_is_symmetric() -> None:
    first, second = features(100, 4), features(50, 5, shift=2)
    assert distance(first, second) == pytest.approx(distance(second, first))


def test_samples_without_a_covariance_are_rejected() -> None:
    for wrong in (features(1, 0), torch.zeros(3), torch.zeros(3, 2, 2)):
        with pytest.raises(ValueError, match="at least two samples"):
            Statistics.of(wrong)
    with pytest.raises(ValueError, match="12 features on one side, 3 on the other"):
        distance(features(5, 0), features(5, 0)[:, :3])


def test_distance_measures_how_far_a_set_moved() -> None:
    points = features(400, 7)
    assert distance(points, points + 0.5) == pytest.approx(FEATURES * 0.25, rel=1e-6)
    assert math.isfinite(distance(points, torch.zeros(400, FEATURES)))
