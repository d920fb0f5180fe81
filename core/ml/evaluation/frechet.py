"""The Fréchet distance between two sets of features, from their means and covariances.

With features of Inception this is the FID (arXiv 1706.08500); with any others it is a distance of those features.
Letters in shapes: N samples, D features.
"""

from collections.abc import Iterable
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

    @classmethod
    def of_parts(cls, parts: Iterable[Tensor]) -> Self:
        """Returns the statistics of parts [n, D] with at least two samples each, without holding all of them in memory.

        Raises ValueError for a part that is smaller, and when there is none.
        """
        whole: Self | None = None
        for part in parts:
            whole = cls.of(part) if whole is None else whole.merged(cls.of(part))
        if whole is None:
            raise ValueError("there are no features")
        return whole

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"count": torch.tensor(self.count), "mean": self.mean, "covariance": self.covariance}, path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Raises FileNotFoundError."""
        tensors = load_file(path)
        return cls(int(tensors["count"]), tensors["mean"], tensors["covariance"])

    def merged(self, other: Self) -> Self:
        """Returns the statistics of both sets together (Chan, Golub and LeVeque, 1979)."""
        count = self.count + other.count
        apart = other.mean - self.mean
        scatter = (self.count - 1) * self.covariance + (other.count - 1) * other.covariance
        scatter = scatter + torch.outer(apart, apart) * (self.count * other.count / count)
        return type(self)(count, self.mean + apart * (other.count / count), scatter / (count - 1))


def frechet_distance(first: Statistics, second: Statistics) -> float:
    """Returns |m1 - m2|^2 + tr(C1) + tr(C2) - 2 tr((C1 C2)^1/2), in the features' units squared.

    C1 C2 has the eigenvalues of the symmetric C1^1/2 C2 C1^1/2, which are real and not negative, so that their roots
    need no complex numbers and no small matrix added, also for covariances without full rank.

    Raises ValueError when the two have not as many features.
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
