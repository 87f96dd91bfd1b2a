"""Bayesian optimisation of a few numbers in a box: a Gaussian process and expected improvement.

Own and small: Matérn 5/2 with one length per number, fitted by its marginal likelihood; the same seed gives the same
points. (methods/vflowopt.md, section 3.6. Formulas: Rasmussen and Williams, "Gaussian Processes for Machine Learning",
2006, sections 2.2, 4.2 and 5.4; Jones, Schonlau and Welch, 1998, for expected improvement.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize
from scipy.special import ndtr
from scipy.stats import qmc

from ...errors import UsageError

Vector = NDArray[np.float64]
LENGTHS = (0.05, 5.0)
NOISES = (1e-6, 1e-1)
CANDIDATES = 2048
NEAR = 256
"""Candidates around the best point, beside those all over the box."""


@dataclass(frozen=True, slots=True)
class Process:
    """A Gaussian process through observed points of the unit cube.

    Parameters
    ----------
    points : ndarray, shape (n, d)
    lengths : ndarray, shape (d,)
    mean, scale : float
        Of the observed values.
    factor : tuple
        Cholesky factor of their covariance.
    weights : ndarray, shape (n,)
    """

    points: Vector
    lengths: Vector
    mean: float
    scale: float
    factor: tuple[Vector, bool]
    weights: Vector

    def predict(self, at: Vector) -> tuple[Vector, Vector]:
        """Mean and standard deviation at points [m, d], each [m]."""
        cross = matern(at, self.points, self.lengths)
        mean = cross @ self.weights
        rest = 1 - np.einsum("mn,nm->m", cross, cho_solve(self.factor, cross.T))
        return self.mean + self.scale * mean, self.scale * np.sqrt(np.maximum(rest, 1e-12))


def matern(one: Vector, other: Vector, lengths: Vector) -> Vector:
    """Matérn 5/2 covariance of points [m, d] and [n, d], [m, n]."""
    distance = np.sqrt(np.maximum((((one[:, None] - other) / lengths) ** 2).sum(-1), 0))
    r = math.sqrt(5) * distance
    return np.asarray((1 + r + r**2 / 3) * np.exp(-r))


def fitted(points: Vector, values: Vector) -> Process:
    """The process whose lengths and noise make the observed values most likely."""
    mean, scale = float(values.mean()), float(values.std()) or 1.0
    standard = (values - mean) / scale
    d = points.shape[1]

    def surprise(logs: Vector) -> float:
        """Negative log marginal likelihood, without its constant."""
        try:
            factor = _factor(points, np.exp(logs[:d]), math.exp(logs[d]))
        except np.linalg.LinAlgError:
            return 1e12
        fit = standard @ cho_solve(factor, standard)
        return float(fit / 2 + np.log(np.diag(factor[0])).sum())

    bounds = [tuple(np.log(LENGTHS))] * d + [tuple(np.log(NOISES))]
    starts = [np.log([length] * d + [1e-3]) for length in (0.2, 0.5, 1.5)]
    found = min((minimize(surprise, start, bounds=bounds, method="L-BFGS-B") for start in starts), key=lambda r: r.fun)
    lengths, noise = np.exp(found.x[:d]), float(np.exp(found.x[d]))
    factor = _factor(points, lengths, noise)
    return Process(points, lengths, mean, scale, factor, np.asarray(cho_solve(factor, standard)))


def _factor(points: Vector, lengths: Vector, noise: float) -> tuple[Vector, bool]:
    factor: tuple[Vector, bool] = cho_factor(matern(points, points, lengths) + noise * np.eye(len(points)), lower=True)
    return factor


def expected_improvement(process: Process, at: Vector, best: float) -> Vector:
    """By how much points [m, d] are expected to exceed the best value, [m]."""
    mean, deviation = process.predict(at)
    z = (mean - best) / deviation
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    return np.asarray((mean - best) * ndtr(z) + deviation * density)


class Search:
    """Maximise a function over a box: ``ask`` for a point, ``tell`` its value.

    Parameters
    ----------
    box : sequence of (low, high)
    seed : int
    initial : int
        Points before the process has a say: those that are known, then a Sobol sequence.
    known : sequence of points
        Worth a try.
    allowed : callable (point) -> bool, optional
        Points that it refuses are never asked for.
    """

    def __init__(
        self, box: Sequence[tuple[float, float]], *, seed: int, initial: int, known: Sequence[Vector] = (),
        allowed: Callable[[Vector], bool] | None = None,
    ) -> None:  # fmt: skip
        self.low, self.high = np.array(box, np.float64).T
        self.seed, self.allowed = seed, allowed or (lambda point: True)
        self.points: list[Vector] = []
        self.values: list[float] = []
        worth = [np.clip(point, self.low, self.high) for point in known]
        worth = [point for point in worth if self.allowed(point)][:initial]
        self.start = [*worth, *self._spread(initial - len(worth), seed)]

    @property
    def best(self) -> int:
        """Number of the point with the largest value, the first of equal ones."""
        return int(np.argmax(self.values))

    def ask(self) -> Vector:
        """The next point; the same as long as no value is told."""
        asked = len(self.points)
        if asked < len(self.start):
            return self.start[asked]
        process = fitted(self._unit(np.stack(self.points)), np.array(self.values))
        rng = np.random.default_rng((self.seed, asked))
        best = self._unit(self.points[self.best][None])
        near = np.clip(best + rng.normal(0, 0.05, (NEAR, len(self.low))), 0, 1)
        candidates = np.concatenate([rng.random((CANDIDATES, len(self.low))), near])
        order = np.argsort(-expected_improvement(process, candidates, max(self.values)), kind="stable")
        for candidate in candidates[order]:
            point = self.low + candidate * (self.high - self.low)
            if self.allowed(point):
                return np.asarray(point)
        raise UsageError("no point of the search box is allowed.")

    def tell(self, point: Vector, value: float) -> None:
        """What ``point`` came to; what is no number counts 0."""
        self.points.append(np.asarray(point, np.float64))
        self.values.append(float(value) if math.isfinite(value) else 0.0)

    def _unit(self, points: Vector) -> Vector:
        """Points of the box in the unit cube; a side without length is in its middle."""
        side = self.high - self.low
        return np.where(side > 0, (points - self.low) / np.where(side > 0, side, 1), 0.5)

    def _spread(self, count: int, seed: int) -> list[Vector]:
        """``count`` allowed points, evenly all over the box."""
        draws = qmc.Sobol(len(self.low), seed=seed).random_base2(max(6, math.ceil(math.log2(16 * max(count, 1)))))
        points = (self.low + draw * (self.high - self.low) for draw in draws)
        found = [point for point in points if self.allowed(point)][:count]
        if len(found) < count:
            raise UsageError(f"{len(found)} of {len(draws)} points of the search box are allowed: it hardly has any.")
        return found
