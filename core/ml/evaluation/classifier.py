"""A small classifier of real emoji drawings, whose features measure the distance between sets of images.

It predicts the class of a drawing and which of four emoji sets (each in its own style) it is from, so that its features
contain both. With classes only, the features would hardly distinguish a base from a domain with the same classes in
another style.

It was trained only on real drawings, independently of the base (`recipes.classifier` trains it).
Letters in shapes: B images, S side in pixels, D features.
"""

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

IMAGE_SIZE = 64
FEATURES = 64
"""Number of features: few, so that some hundred images suffice to estimate their covariance."""
WIDTHS = (16, 32, 64, 128)
WEIGHTS, ABOUT = "classifier.safetensors", "classifier.json"


@dataclass(frozen=True)
class Judgement:
    """Classifier outputs for B images."""

    features: Tensor
    """[B, D], each feature with mean 0 and variance 1 over real drawings"""
    classes: Tensor
    """[B] predicted classes, as indices into the classifier's `class_names`"""
    sets: Tensor
    """[B] predicted emoji sets, as indices into the classifier's `set_names`"""


class Classifier(nn.Module):
    """Residual network that computes 64 features from pixels, and logits of classes and of emoji sets from the
    features."""

    def __init__(self, class_names: tuple[str, ...], set_names: tuple[str, ...]) -> None:
        super().__init__()
        self.class_names, self.set_names = class_names, set_names
        stages: list[nn.Module] = [_convolution(3, WIDTHS[0], stride=2)]  # [B, 16, 32, 32]
        for before, after in pairwise(WIDTHS):
            stages += [_convolution(before, after, stride=2), _Residual(after)]
        self.stages = nn.Sequential(*stages)  # [B, 128, 4, 4]
        # No ReLU and no learned scale follow: the Fréchet distance assumes normally distributed features, and each
        # feature should count equally.
        self.bottleneck = nn.Linear(WIDTHS[-1], FEATURES, bias=False)
        self.standard = nn.BatchNorm1d(FEATURES, affine=False)
        self.classes = nn.Linear(FEATURES, len(class_names))
        self.sets = nn.Linear(FEATURES, len(set_names))

    def forward(self, pictures: Tensor) -> Tensor:
        """Computes features [B, D] from images [B, 3, S, S] in [-1, 1]. The layers `classes` and `sets` compute logits
        from the features."""
        features: Tensor = self.standard(self.bottleneck(self.stages(pictures).mean((2, 3))))
        return features

    @torch.inference_mode()
    def judge(self, pixels: Tensor, batch_size: int = 128) -> Judgement:
        """Returns the features and the predicted classes and emoji sets of images [B, 3, S, S] uint8, as
        `core.ml.evaluation.drawings.to_bytes` makes them."""
        features = torch.cat([self(unit(batch)) for batch in pixels.split(batch_size)])
        return Judgement(features, self.classes(features).argmax(1), self.sets(features).argmax(1))


def unit(pixels: Tensor) -> Tensor:
    """Converts uint8 pixels to floats in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def save_classifier(folder: Path, classifier: Classifier, figures: dict[str, Any]) -> None:
    """Saves the weights in half precision, and a JSON file with the class names, the set names and the measured
    `figures`."""
    state = {name: _halved(tensor) for name, tensor in classifier.state_dict().items()}
    save_file(state, folder / WEIGHTS)
    description = {"class_names": list(classifier.class_names), "set_names": list(classifier.set_names), **figures}
    (folder / ABOUT).write_text(json.dumps(description, indent=2) + "\n")


def load_classifier(folder: Path | None = None) -> tuple[Classifier, dict[str, Any]]:
    """Returns the bundled classifier, or the one in `folder`, with its measured figures.

    Raises FileNotFoundError if the folder contains no classifier.
    """
    folder = folder or Path(__file__).parent
    description = json.loads((folder / ABOUT).read_text())
    classifier = Classifier(tuple(description.pop("class_names")), tuple(description.pop("set_names")))
    classifier.load_state_dict(load_file(folder / WEIGHTS))  # copies into fp32
    return classifier.eval().requires_grad_(False), description


def _halved(tensor: Tensor) -> Tensor:
    return (tensor.half() if tensor.is_floating_point() else tensor).contiguous()


def _convolution(before: int, after: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)
    )


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _convolution(width, width)
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.second(self.first(x)))
