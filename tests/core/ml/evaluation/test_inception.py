"""Loading of Inception and preparation of its input, with a stand-in network of the same interface: the weights are not
part of the repository."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from core.ml.evaluation.inception import FEATURES, SIDE, Inception, enlarged
from core.ml.evaluation.yardsticks import Judges

# Inception's weights are a TorchScript file.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")


class Layers(nn.Module):
    def forward(self, pictures: Tensor) -> Tensor:
        """Returns channel means, repeated to as many features as Inception has."""
        return pictures.mean((2, 3)).repeat(1, 683)[:, :2048]


class StandIn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = Layers()

    def forward(self, pictures: Tensor) -> Tensor:
        out: Tensor = self.layers(pictures)
        return out


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "inception-2015-12-05.pt"
    torch.jit.script(StandIn()).save(str(path))
    return path


def test_pictures_are_enlarged_and_scaled_for_the_layers(weights: Path) -> None:
    white, black = torch.full((3, 64, 64), 255), torch.zeros(3, 64, 64)
    features = Inception(weights).features(torch.stack([white, black, black]).to(torch.uint8), batch_size=2)
    assert features.shape == (3, FEATURES)
    assert features[:, 0].tolist() == pytest.approx([127 / 128, -1, -1])


def test_enlarging_clips_without_rounding() -> None:
    edge = torch.zeros(3, 64, 64, dtype=torch.uint8)
    edge[:, :, 32:] = 255
    large = enlarged(edge)
    assert large.shape == (3, SIDE, SIDE)
    assert large.dtype == torch.float32
    assert (large.min(), large.max()) == (0, 255)
    assert (large != large.round()).any()


def test_statistics_stored_before_images_were_clipped_are_not_used(weights: Path) -> None:
    """They have the digest of the weights alone as their key."""
    judges = Judges(inception=weights)
    assert judges.yardsticks[-1].digest != judges.inception_digest


def test_missing_or_wrong_weight_files_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="FID needs Inception's weights"):
        Inception(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("not a network")
    with pytest.raises(ValueError, match="not the TorchScript file"):
        Inception(tmp_path / "text.pt")
    torch.jit.script(Layers()).save(str(tmp_path / "other.pt"))
    with pytest.raises(ValueError, match="not the TorchScript file"):
        Inception(tmp_path / "other.pt")
