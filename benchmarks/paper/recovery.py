"""Simulates Theorem 2 of the DiffFit paper (section 9 of arXiv 2304.06648): how well least squares recovers scale
factors.

Inputs E [m, D], which are standard normal, pass a layer with weight W [D, D], bias b and activation f: A =
f(E W^T + b). With true factors g* [D] and noise Z, the targets are y = (A + Z) g*. Least squares of A g = y gives an
estimate g of g*. The theorem bounds |g - g*| by 4 sqrt(2) eta / sqrt(V_min) * |g*|, where V_min is the least variance
of a column of A and eta is the sub-Gaussian norm of Z's entries.

The theorem's proof assumes that the columns of A are independent: equation 12 writes E[f(X_i) f(X_j)] as a product of
means. This holds when W's rows are orthogonal. Otherwise the least eigenvalue of E[a a^T], where a is a row of A, can
be far below V_min. Then Lemma 7's lower bound on |A g|, on which the theorem depends, fails.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Activation = Literal["linear", "relu", "tanh", "sigmoid"]
ACTIVATIONS: dict[Activation, Callable[[Array], Array]] = {
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0.0),
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}


@dataclass(frozen=True, kw_only=True)
class Setting:
    activation: Activation
    dimension: int
    multiple: float = 1.0
    """Number of samples m as a multiple of D^2 log D, rounded up."""
    spread: float | None = None
    """Deviation of W's rows from being parallel; None makes them orthogonal. Otherwise each row is the sum of a unit
    vector that all rows share and of `spread` times a separate unit vector, scaled to length 1."""

    @property
    def samples(self) -> int:
        return math.ceil(self.multiple * self.dimension**2 * math.log(self.dimension))


@dataclass(frozen=True)
class Recovery:
    """Result of one simulated run for one eta, the sub-Gaussian norm of the noise."""

    eta: float
    error: float
    """Relative error |g - g*| / |g*|."""
    bound: float
    """Bound of Theorem 2 on the relative error."""
    eigenvalue_ratio: float
    """Least eigenvalue of A^T A / m, divided by V_min. Lemma 7 of the paper claims that it is above 1/2."""

    @property
    def holds(self) -> bool:
        return self.error < self.bound

    @property
    def corrected_bound(self) -> float:
        """Bound of Theorem 2 with the least eigenvalue of A^T A / m in place of V_min / 2, which is Lemma 7's lower
        bound on that eigenvalue."""
        return self.bound / math.sqrt(2 * self.eigenvalue_ratio) if self.eigenvalue_ratio else math.inf


def recover(setting: Setting, etas: Sequence[float], generator: np.random.Generator) -> list[Recovery]:
    """Draws one W, b, g* and E, and noise for each eta, and estimates g* by least squares. Returns one result per eta.
    W's rows have length 1, b is uniform in -1..1, g* is standard normal."""
    d, m, f = setting.dimension, setting.samples, ACTIVATIONS[setting.activation]
    weight, offset = _rows(setting, generator), generator.uniform(-1, 1, d)
    true = generator.standard_normal(d)
    a = f(generator.standard_normal((m, d)) @ weight.T + offset)  # [m, D]
    deviations = [eta / sub_gaussian_norm(1.0) for eta in etas]
    noise = np.stack([s * (generator.standard_normal((m, d)) @ true) for s in deviations], axis=1)  # [m, etas]
    q, r = np.linalg.qr(a)
    # A ReLU column that is zero in all samples does not determine its factor: lstsq takes the least-norm solution.
    solution = np.linalg.lstsq(r, q.T @ ((a @ true)[:, None] + noise))[0]  # [D, etas]
    errors = np.linalg.norm(solution - true[:, None], axis=0) / np.linalg.norm(true)
    least_variance = smallest_variance(f, offset, np.linalg.norm(weight, axis=1))
    ratio = float(np.linalg.svd(r, compute_uv=False)[-1] ** 2 / m / least_variance)
    bounds = [4 * math.sqrt(2) * eta / math.sqrt(least_variance) for eta in etas]
    return [Recovery(*values, ratio) for values in zip(etas, errors.tolist(), bounds, strict=True)]


def sub_gaussian_norm(deviation: float) -> float:
    """Returns the sub-Gaussian norm of a centred normal variable, as section 9.2 of the paper defines it: the supremum
    over p >= 1 of E[|X|^p]^(1/p) / sqrt(p), which is at p = 1."""
    return deviation * math.sqrt(2 / math.pi)


def smallest_variance(f: Callable[[Array], Array], means: Array, deviations: Array) -> float:
    """Returns V_min, the least Var[f(X_i)], where X_i is normal with the given means and standard deviations [D], by
    the trapezoidal rule."""
    z = np.linspace(-9, 9, 6001)
    density = np.exp(-(z**2) / 2)
    density /= density.sum()
    values = f(means[:, None] + deviations[:, None] * z)  # [D, places]
    centred = values - (values @ density)[:, None]
    return float((centred**2 @ density).min())


def _rows(setting: Setting, generator: np.random.Generator) -> Array:
    """Draws the weight W [D, D], with orthogonal or nearly parallel rows."""
    d = setting.dimension
    if setting.spread is None:
        q, r = np.linalg.qr(generator.standard_normal((d, d)))
        rotation: Array = q * np.sign(np.diag(r))  # uniform over all rotations and reflections
        return rotation
    shared, own = generator.standard_normal(d), generator.standard_normal((d, d))
    rows = _unit(shared) + setting.spread * _unit(own)
    return _unit(rows)


def _unit(vectors: Array) -> Array:
    lengths: Array = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / lengths
