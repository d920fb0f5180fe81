"""The Fréchet distance between two sets of features, from their means and covariances.

With features of Inception it is the FID (arXiv 1706.08500). Distances of different kinds of features are not
comparable.
Letters in shapes: N samples, D features.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


@dataclass(frozen=True)
class Statistics:
    """Count, mean and covariance of a set of features, in fp64."""

    count: int
    mean: Tensor
    """[D]"""
    covariance: Tensor
    """[D, D], unbiased (divided by N - 1)"""

    @classmethod
    def of(cls, features: Tensor) -> Self:
        """Returns the statistics of features [N, D]. Raises ValueError for fewer than two samples."""
        if features.ndim != 2 or len(features) < 2:
            raise ValueError(f"a covariance needs at least two samples [N, D], not {list(features.shape)}")
        features = features.double()
        return cls(len(features), features.mean(0), features.T.cov())

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"count": torch.tensor(self.count), "mean": self.mean, "covariance": self.covariance}, path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads statistics from a file that `save` wrote. Raises FileNotFoundError."""
        tensors = load_file(path)
        return cls(int(tensors["count"]), tensors["mean"], tensors["covariance"])


def frechet_distance(first: Statistics, second: Statistics) -> float:
    """Returns |m1 - m2|^2 + tr(C1) + tr(C2) - 2 tr((C1 C2)^1/2), in the features' units squared.

    m1, m2 are the means and C1, C2 the covariances. C1 C2 has the eigenvalues of the symmetric C1^1/2 C2 C1^1/2, which
    are real and not negative. So their roots need neither complex numbers nor a small matrix added to the covariances,
    even to those without full rank.

    Raises ValueError if the two have different numbers of features.
    """
    if first.mean.shape != second.mean.shape:
        raise ValueError(f"{len(first.mean)} features on one side, {len(second.mean)} on the other")
    root = _square_root(first.covariance)
    shared = torch.linalg.eigvalsh(root @ second.covariance @ root).clamp(min=0).sqrt().sum()
    apart = (first.mean - second.mean).square().sum()
    return float(apart + first.covariance.trace() + second.covariance.trace() - 2 * shared)


def _square_root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root
