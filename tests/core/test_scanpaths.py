"""Scores of scanpaths beyond the golden vectors (tests/golden/test_oat.py)."""

from __future__ import annotations

import numpy as np
import pytest

from attn.core.scanpaths import found_within, multimatch, scanpath_saliency


def test_multimatch_is_that_of_multimatch_gaze() -> None:
    """Where one path through the matrix is the cheapest; of several the package takes what its heap gives."""
    package = pytest.importorskip("multimatch_gaze")
    rng = np.random.default_rng(0)
    for _ in range(60):
        lengths = rng.integers(3, 13, 2)
        paths = [np.column_stack((rng.uniform(0, 1680, n), rng.uniform(0, 1050, n))) for n in lengths]
        spent = [rng.uniform(0.1, 0.6, n) for n in lengths]
        records = [
            np.rec.fromarrays([*path.T, time], names="start_x,start_y,duration")
            for path, time in zip(paths, spent, strict=True)
        ]
        wanted = package.docomparison(*records, screensize=[1680, 1050])
        found = multimatch(*paths, (1680, 1050), (spent[0], spent[1]))
        np.testing.assert_allclose(found, wanted, atol=1e-9)


def test_saliency_of_a_scanpath_is_that_of_the_map() -> None:
    pixels, met = 40, {3, 5, 9}
    drawn = np.zeros(pixels)
    drawn[list(met)] = 1
    standard = (drawn - drawn.mean()) / drawn.std()
    found = scanpath_saliency([[3, 5], [9, 3]], [5, 8, 8, 9], pixels)
    assert found == pytest.approx(standard[[5, 8, 8, 9]].mean())
    assert np.isnan(scanpath_saliency([[3]], [], pixels))


def test_search_performance() -> None:
    np.testing.assert_allclose(found_within([[2, 1], [1], [3, 3]], 1, 3), [1 / 3, 2 / 3, 2 / 3])
