"""Shares and their differences with intervals (methods/prune-evaluation.md, section 4.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
EXACT = 25
"""Up to so many discordant pairs McNemar's test is exact."""
RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and the interval that holds it with 95 % confidence."""

    value: float
    low: float
    high: float

    def apart(self, other: Estimate) -> bool:
        """Whether the two intervals have nothing in common."""
        return self.low > other.high or self.high < other.low


def wilson(successes: float, trials: int, confidence: float = CONFIDENCE) -> Estimate:
    """A share with its score interval (Wilson 1927), which holds near 0 and 1, too.

    Parameters
    ----------
    successes : float
        May be no whole number where each trial has a score in [0, 1]: the interval is then at least as wide as it must
        be, for such scores vary less.
    trials : int
        NaN everywhere where there are none.
    """
    from scipy.stats import norm

    if not trials:
        return Estimate(math.nan, math.nan, math.nan)
    z = float(norm.ppf((1 + confidence) / 2))
    share = successes / trials
    shrink = 1 + z * z / trials
    middle = (share + z * z / (2 * trials)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2)
    return Estimate(share, max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half)))


@dataclass(frozen=True, slots=True)
class PairedTest:
    """Two methods on the same samples.

    Parameters
    ----------
    first_only, second_only : int
        Samples that only one of them gets right.
    p_value : float
        Of McNemar's test that both are right equally often.
    exact : bool
        From the binomial distribution; else chi-squared with the correction for continuity.
    """

    first_only: int
    second_only: int
    p_value: float
    exact: bool


def mcnemar(first: ArrayLike, second: ArrayLike) -> PairedTest:
    """McNemar's test on paired outcomes, [n] bool each; exact where at most ``EXACT`` pairs differ.

    Raises
    ------
    ValueError
        If they are not of one length.
    """
    from scipy.stats import binomtest, chi2

    one, other = np.asarray(first, bool), np.asarray(second, bool)
    if one.shape != other.shape:
        raise ValueError(f"outcomes of {one.shape} and {other.shape} are not paired")
    b, c = int((one & ~other).sum()), int((~one & other).sum())
    if b + c <= EXACT:
        return PairedTest(b, c, float(binomtest(b, b + c).pvalue) if b + c else 1.0, True)
    statistic = max(0, abs(b - c) - 1) ** 2 / (b + c)
    return PairedTest(b, c, float(chi2.sf(statistic, 1)), False)


def difference(first: ArrayLike, second: ArrayLike, confidence: float = CONFIDENCE) -> Estimate:
    """Mean of ``first - second`` over the same samples, with its normal interval.

    Parameters
    ----------
    first, second : array_like [n]
        Scores; of right and wrong answers 1 and 0.
    """
    from scipy.stats import norm

    gaps = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    if not len(gaps):
        return Estimate(math.nan, math.nan, math.nan)
    mean = float(gaps.mean())
    half = (
        float(norm.ppf((1 + confidence) / 2)) * float(gaps.std(ddof=1)) / math.sqrt(len(gaps))
        if len(gaps) > 1
        else math.inf
    )
    return Estimate(mean, mean - half, mean + half)


def mean_interval(values: ArrayLike, seed: int = 0, confidence: float = CONFIDENCE) -> Estimate:
    """A mean over samples, with the percentiles of means of resamples of them; values that are NaN are left out."""
    known = np.asarray(values, np.float64)
    known = known[np.isfinite(known)]
    if not len(known):
        return Estimate(math.nan, math.nan, math.nan)
    generator = np.random.default_rng(seed)
    means = np.array([known[generator.integers(len(known), size=len(known))].mean() for _ in range(RESAMPLES)])
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(means, (tail, 100 - tail))
    return Estimate(float(known.mean()), float(low), float(high))


def area_under(retentions: Sequence[float], values: Sequence[float]) -> float:
    """Area under values over the logarithm of retention, by trapezes, over the width: a mean value of the curve.

    Parameters
    ----------
    retentions : sequence of float in (0, 1], length N
        In any order, all different.
    values : sequence of float, length N

    Returns
    -------
    float
        NaN for fewer than two points.
    """
    order = np.argsort(retentions)
    xs: NDArray[np.float64] = np.log(np.asarray(retentions, np.float64)[order])
    ys: NDArray[np.float64] = np.asarray(values, np.float64)[order]
    if len(xs) < 2:
        return math.nan
    return float(np.trapezoid(ys, xs) / (xs[-1] - xs[0]))
