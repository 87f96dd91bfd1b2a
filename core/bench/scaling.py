"""How time grows with length: fitted exponents, and where one operator overtakes another.

Specification: methods/attention-bench.md, section 6.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Fit:
    """``seconds ~ factor * length ** exponent``, with a 95 % interval of the exponent (NaN for two points)."""

    exponent: float
    low: float
    high: float
    factor: float
    points: int
    local: tuple[float, ...]

    def seconds(self, length: float) -> float:
        return float(self.factor * length**self.exponent)


def fit(lengths: Sequence[int], seconds: Sequence[float], overhead: float = 0.0) -> Fit | None:
    """Least squares of log(time - overhead) on log(length).

    Parameters
    ----------
    lengths, seconds : sequences of equal size
    overhead : float, s
        Time of an empty call: subtracted; points below ten times as much are dropped.

    Returns
    -------
    Fit or None
        None where fewer than two points are left.
    """
    kept = [(n, s - overhead) for n, s in zip(lengths, seconds, strict=True) if s > max(10 * overhead, 0.0)]
    if len(kept) < 2:
        return None
    x, y = np.log([n for n, _ in kept]), np.log([s for _, s in kept])
    slope, intercept = np.polyfit(x, y, 1)
    half = math.nan
    if len(kept) > 2:
        residual = y - slope * x - intercept
        error = math.sqrt(float(residual @ residual) / (len(kept) - 2) / float(((x - x.mean()) ** 2).sum()))
        half = _student(len(kept) - 2) * error
    local = tuple(float(step) for step in np.diff(y) / np.diff(x))
    return Fit(float(slope), float(slope) - half, float(slope) + half, math.exp(intercept), len(kept), local)


def _student(freedom: int) -> float:
    """The two-sided 95 % quantile of Student's t."""
    from scipy.stats import t

    return float(t.ppf(0.975, freedom))


def crossover(
    lengths: Sequence[int], seconds: Sequence[float], baseline: Sequence[float], ours: Fit | None, theirs: Fit | None
) -> tuple[float | None, bool]:
    """The length from which on an operator is faster than the baseline.

    Returns
    -------
    length : float or None
        Between two measured lengths: interpolated in log-log. The smallest length where it is faster everywhere. Beyond
        the largest: where the fitted lines meet. None where they never do.
    measured : bool
        False where the length comes from the fitted lines.
    """
    ratio = [math.log(s / b) for s, b in zip(seconds, baseline, strict=True)]
    if ratio and ratio[-1] <= 0:
        for i in range(len(ratio) - 1, 0, -1):
            if ratio[i - 1] > 0:
                share = ratio[i - 1] / (ratio[i - 1] - ratio[i])
                low, high = math.log(lengths[i - 1]), math.log(lengths[i])
                return math.exp(low + share * (high - low)), True
        return float(lengths[0]), True
    if ours is None or theirs is None or ours.exponent >= theirs.exponent - 0.02:
        return None, False
    meet = math.log(ours.factor / theirs.factor) / (theirs.exponent - ours.exponent)
    return (math.exp(meet), False) if meet < math.log(2**40) else (None, False)
