"""The comparison of domains: per cent, intervals, and what is said about them."""

from __future__ import annotations

import numpy as np
import pytest

from attn.core.probe.distance.compare import Domain, change, changes_of, trust_lines

NONE = np.zeros((0,), np.float32)


def distances(mean: float, pictures: int, seed: int = 0) -> np.ndarray:
    """Of 3 layers and 2 heads."""
    noise = np.random.default_rng(seed).normal(size=(pictures, 1, 1))
    return (mean + 0.05 * noise + np.arange(3)[:, None] + np.zeros((3, 2))).astype(np.float32)


def test_per_cent_of_the_first() -> None:
    one, two = distances(3, 6), distances(4, 9, 1)
    found = change("b against a", one, two)
    expected = 100 * (two.mean((0, 2)) / one.mean((0, 2)) - 1)
    assert np.allclose(found.percent[:-1], expected, atol=1e-4)
    assert found.percent[-1] == pytest.approx(100 * (two.mean() / one.mean() - 1), rel=1e-5)
    assert np.allclose(found.heads, 100 * (two.mean(0) / one.mean(0) - 1), atol=1e-4)
    assert (found.low < found.percent).all()
    assert (found.percent < found.high).all()
    assert found.excludes.all()
    assert "excludes 0; layer by layer it excludes 0 in 3 of 3 (x)" in found.told("x")
    again = change("b against a", one, two)
    assert np.array_equal(found.low, again.low)


def test_no_difference_is_said() -> None:
    found = change("b against a", distances(3, 8), distances(3, 8, 3))
    assert not found.excludes[-1]
    assert "does not exclude 0: no difference is shown" in found.told("")


def test_too_few_pictures_have_no_interval() -> None:
    found = change("b against a", distances(3, 4), distances(4, 9))
    assert np.isnan(found.low).all()
    assert not found.excludes.any()
    assert "no interval: that takes 5 pictures" in found.told("")


def test_pairs_cancel_what_pictures_share() -> None:
    """The same pictures before and after: their own spread is no uncertainty of the difference."""
    before = distances(3, 6)
    domain = Domain("source", before * 1.01, before, before, before, {}, NONE, NONE)
    (paired,) = changes_of([domain])
    assert paired.name == "after against before, source"
    assert np.allclose(paired.high - paired.low, 0, atol=1e-3)
    loose = change("", before, before * 1.01)
    assert (loose.high - loose.low > 0.1).all()


def test_no_distance_at_all() -> None:
    """A grid of one patch: nothing is divided by 0."""
    found = change("b against a", np.zeros((5, 2, 2)), np.zeros((5, 2, 2)))
    assert np.isnan(found.percent).all()


def test_a_difference_like_that_of_untrained_models_is_red() -> None:
    draw = np.random.default_rng(0)

    def domain(name: str, shift: float) -> Domain:
        checked = draw.uniform(1, 7, (1, 4, 3)).astype(np.float32) + shift
        untrained = draw.uniform(4, 4.2, (1, 8, 4, 3)).astype(np.float32)
        return Domain(name, checked, checked, checked, NONE, {}, checked, untrained)

    far = trust_lines([domain("source", 0), domain("target", 6)])
    assert [one.passed for one in far] == [True, True]
    shared = domain("source", 0)
    same = trust_lines([shared, shared])
    assert [one.passed for one in same] == [True, False]
    assert trust_lines([Domain("source", NONE, NONE, NONE, NONE, {}, NONE, NONE)]) == []
