"""One run of Theorem 2's setting (section 9 of DiffFit, arXiv 2304.06648): how well least squares finds the factors.

With A = f(E W^T + b), E standard normal [m, D], and y = (A + Z) g*, least squares of A g = y gives an estimate of g*.
The theorem bounds its error by 4 sqrt(2) eta / sqrt(V_min) * |g*|, where V_min is the least variance of a column of A
and eta the sub-Gaussian norm of Z's entries.

Its proof takes the columns of A for independent: equation 12 writes E[f(X_i) f(X_j)] as a product of means. That holds
when W's rows are orthogonal. Otherwise the least eigenvalue of E[a a^T] can be far below V_min, and with it Lemma 7's
bound on |A g|, on which the theorem stands.
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
    """m is this many times D^2 log D, rounded up."""
    spread: float | None = None
    """None takes orthogonal rows of W. Otherwise each row is one unit vector that all share, and `spread` times a unit
    vector of its own, scaled to length 1."""

    @property
    def samples(self) -> int:
        return math.ceil(self.multiple * self.dimension**2 * math.log(self.dimension))


@dataclass(frozen=True)
class Recovery:
    """Result for one eta."""

    eta: float
    error: float
    """Relative error |g - g*| / |g*|."""
    bound: float
    """Bound of the theorem for the same ratio."""
    eigenvalue_ratio: float
    """Least eigenvalue of A^T A / m over V_min; Lemma 7 demands more than 1/2."""

    @property
    def holds(self) -> bool:
        return self.error < self.bound

    @property
    def corrected_bound(self) -> float:
        """Bound with the least eigenvalue in the place of V_min / 2, for which Lemma 7 takes it."""
        return self.bound / math.sqrt(2 * self.eigenvalue_ratio) if self.eigenvalue_ratio else math.inf


def recover(setting: Setting, etas: Sequence[float], generator: np.random.Generator) -> list[Recovery]:
    """Draws one W, b, g* and E, and noise for each eta, and estimates the factors. W's rows have length 1, b is uniform
    in -1..1, g* is standard normal."""
    d, m, f = setting.dimension, setting.samples, ACTIVATIONS[setting.activation]
    weight, offset = _rows(setting, generator), generator.uniform(-1, 1, d)
    true = generator.standard_normal(d)
    a = f(generator.standard_normal((m, d)) @ weight.T + offset)  # [m, D]
    deviations = [eta / sub_gaussian_norm(1.0) for eta in etas]
    noise = np.stack([s * (generator.standard_normal((m, d)) @ true) for s in deviations], axis=1)  # [m, etas]
    q, r = np.linalg.qr(a)
    # A column of ReLU's that is zero in all samples leaves its factor open: then the smallest solution is taken.
    solution = np.linalg.lstsq(r, q.T @ ((a @ true)[:, None] + noise))[0]  # [D, etas]
    errors = np.linalg.norm(solution - true[:, None], axis=0) / np.linalg.norm(true)
    least_variance = smallest_variance(f, offset, np.linalg.norm(weight, axis=1))
    ratio = float(np.linalg.svd(r, compute_uv=False)[-1] ** 2 / m / least_variance)
    bounds = [4 * math.sqrt(2) * eta / math.sqrt(least_variance) for eta in etas]
    return [Recovery(*values, ratio) for values in zip(etas, errors.tolist(), bounds, strict=True)]


def sub_gaussian_norm(deviation: float) -> float:
    """Returns the norm of a centred normal variable, by section 9.2: the supremum over p >= 1 of E[|X|^p]^(1/p) /
    sqrt(p), which p = 1 attains."""
    return deviation * math.sqrt(2 / math.pi)


def smallest_variance(f: Callable[[Array], Array], means: Array, deviations: Array) -> float:
    """Returns V_min: the least Var[f(X_i)] for X_i normal with these means and deviations [D], by the trapezoidal
    rule."""
    z = np.linspace(-9, 9, 6001)
    density = np.exp(-(z**2) / 2)
    density /= density.sum()
    values = f(means[:, None] + deviations[:, None] * z)  # [D, places]
    centred = values - (values @ density)[:, None]
    return float((centred**2 @ density).min())


def _rows(setting: Setting, generator: np.random.Generator) -> Array:
    """Returns W, [D, D]."""
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
