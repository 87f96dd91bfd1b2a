"""Intervals and tests against textbook values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from attn.core.prune.measure.statistics import Estimate, area_under, difference, mcnemar, mean_interval, wilson


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_of_newcombe(successes: int, trials: int, low: float, high: float) -> None:
    """Newcombe, Statistics in Medicine 17 (1998), table I, method 3."""
    found = wilson(successes, trials)
    assert found.value == successes / trials
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    mirrored = wilson(trials - successes, trials)
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((low, high), abs=5e-5)


def test_wilson_of_nothing() -> None:
    assert math.isnan(wilson(0, 0).value)


def test_mcnemar_of_agresti() -> None:
    """Approval of the prime minister: 150 against 86 changes (Agresti, Categorical Data Analysis, table 10.1)."""
    outcomes = np.repeat([[1, 1], [1, 0], [0, 1], [0, 0]], [794, 150, 86, 570], axis=0)
    test = mcnemar(outcomes[:, 0], outcomes[:, 1])
    assert (test.first_only, test.second_only, test.exact) == (150, 86, False)
    assert test.p_value == pytest.approx(4.11e-5, rel=0.01)  # chi-squared (150 - 86 - 1)^2 / 236 = 16.82
    gap = difference(outcomes[:, 0], outcomes[:, 1])
    assert (gap.value, gap.low, gap.high) == pytest.approx((0.04, 0.0213, 0.0587), abs=5e-4)


def test_mcnemar_is_exact_for_few_pairs() -> None:
    test = mcnemar([1] * 10 + [0] * 3 + [1] * 7, [0] * 10 + [1] * 3 + [1] * 7)
    assert test.exact
    assert test.p_value == pytest.approx(2 * sum(math.comb(13, k) for k in range(4)) / 2**13)  # 0.0923
    assert mcnemar([1, 0], [1, 0]).p_value == 1
    with pytest.raises(ValueError, match="not paired"):
        mcnemar([1], [1, 0])


def test_mean_interval_is_that_of_the_normal_one() -> None:
    values = np.random.default_rng(1).normal(3, 2, 400)
    found = mean_interval([*values, math.nan])
    half = 1.96 * values.std(ddof=1) / 20
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)


def test_area_is_a_mean_over_the_logarithm() -> None:
    assert area_under([1, 0.5, 0.25], [1, 0.8, 0.6]) == pytest.approx(0.8)
    assert area_under([0.25, 1], [0.5, 0.5]) == pytest.approx(0.5)
    assert math.isnan(area_under([0.5], [1]))


def test_apart() -> None:
    assert Estimate(0.5, 0.4, 0.6).apart(Estimate(0.8, 0.7, 0.9))
    assert not Estimate(0.5, 0.4, 0.6).apart(Estimate(0.6, 0.55, 0.7))
