"""Phantoms against vectors of the reference: methods/adaptive-denoise.md, sections 5 and 6; float32 rounding.

An edge on the fine grid may fall to the other side where a platform rounds a cosine otherwise: one pixel in a hundred
may differ.
"""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from attn.core.denoise.phantoms.lesions import draw_lesions
from attn.core.denoise.phantoms.phantom import KINDS, Phantom
from attn.core.denoise.phantoms.scan import scan
from attn.core.denoise.phantoms.single import draw_slice
from attn.core.denoise.phantoms.stack import draw_series

Vectors = dict[str, NDArray[np.float64]]


def load(name: str) -> Vectors:
    with np.load(Path(__file__).parent / "vectors" / "phantoms" / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def equal(actual: NDArray[np.float32], expected: NDArray[np.float64]) -> None:
    assert actual.dtype == np.float32
    assert (np.abs(actual - expected) <= 0.01).mean() >= 0.99


@pytest.fixture(scope="module")
def single() -> Vectors:
    return load("single")


def small(single: Vectors, kind: str) -> Phantom:
    seed, cutoff, *_ = single[f"{kind}.about"]
    return draw_slice(kind, int(seed), side=64, pixel_mm=2.5, cutoff_per_mm=float(cutoff))


@pytest.mark.parametrize("kind", KINDS)
def test_slice(single: Vectors, kind: str) -> None:
    phantom = small(single, kind)
    equal(phantom.truth[0, ::3, 1::3], single[kind])
    np.testing.assert_allclose([phantom.truth.mean(), phantom.truth.std()], single[f"{kind}.about"][2:], rtol=1e-4)


def test_scan(single: Vectors) -> None:
    equal(scan(small(single, "inserts"), 0.1, seed=11)[0, ::3, 1::3], single["scan"])


@pytest.mark.parametrize("kind", KINDS)
def test_series(kind: str) -> None:
    vectors = load("series")
    seed, cutoff, *positions, mean, std = vectors[f"{kind}.about"]
    phantom = draw_series(
        kind, int(seed), side=48, pixel_mm=3.0, positions_mm=positions, thickness_mm=4.0, cutoff_per_mm=float(cutoff)
    )
    equal(phantom.truth[:, ::3, 1::3], vectors[kind])
    np.testing.assert_allclose([phantom.truth.mean(), phantom.truth.std()], [mean, std], rtol=1e-4)


def test_lesions() -> None:
    vectors, drawn = load("lesions"), draw_lesions(4, dose=0.1, side=48)
    assert drawn.noise_std == pytest.approx(float(vectors["noise_std"]), rel=1e-4)
    np.testing.assert_allclose([lesion.contrast for lesion in drawn.lesions], vectors["contrast"], rtol=1e-4)
    np.testing.assert_array_equal([lesion.core((48, 48)) for lesion in drawn.lesions], vectors["cores"])
    for name, actual in (("truth", drawn.truth), ("plain", drawn.plain.truth), ("noise", drawn.noise)):
        equal(actual[1:3, ::2, ::2], vectors[name])
