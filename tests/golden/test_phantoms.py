"""Phantoms against vectors of the reference implementation: methods/adaptive-denoise.md, section 5; float32 rounding.

An edge on the fine grid may fall to the other side where a platform rounds a cosine otherwise: one pixel in a hundred
may differ.
"""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from attn.core.denoise.phantoms.phantom import KINDS, Phantom
from attn.core.denoise.phantoms.scan import scan
from attn.core.denoise.phantoms.single import draw_slice

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
