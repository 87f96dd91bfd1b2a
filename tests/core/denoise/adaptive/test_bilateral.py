"""The kernels of the adaptive method against the slow reference in float64; the same bits on any number of threads."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from attn.core.denoise.adaptive.bilateral import (
    accumulate,
    accumulate_reference,
    patch_bilateral,
    patch_bilaterals,
    reference,
    spatial_weights,
)
from attn.core.denoise.adaptive.mixture import HEADS, filtered
from attn.core.threads import kernels_own_the_threads

Array = NDArray[Any]

# smaller than window and patch, one row, odd sides, a little more than one tile's least height and a vector's width
SHAPES = [(1, 1), (1, 40), (7, 5), (33, 21)]
ROUNDING = 2e-6


def scene(shape: tuple[int, int], seed: int = 0) -> tuple[Array, Array]:
    """A noisy edge in [0, 1], float32, and its noise level from place to place."""
    rng = np.random.default_rng([seed, *shape])
    y, x = np.mgrid[: shape[0], : shape[1]]
    level = 0.02 + 0.03 * rng.random(shape)
    image = 0.3 + 0.4 * (x + y > sum(shape) / 2) + level * rng.standard_normal(shape)
    return image.astype(np.float32), level.astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("strength", ["1", "map"])
def test_every_head_is_the_reference(shape: tuple[int, int], strength: str) -> None:
    x, level = scene(shape)
    factor = 1.0 if strength == "1" else np.linspace(0.0, 3.0, x.size).reshape(shape)
    planes = filtered(x, level, factor)
    assert planes.shape == (len(HEADS), *shape)
    assert planes.dtype == np.float32
    for plane, head in zip(planes, HEADS, strict=True):
        guide = gaussian_filter(x, head.guide) if head.guide else x
        truth = reference(
            x.astype(float), guide.astype(float), factor * level, (head.kappa,), spatial_sigma=head.sigma,
            radius=head.radius, patch=head.patch, bias=head.bias,
        )  # fmt: skip
        np.testing.assert_allclose(plane, truth[0], rtol=0, atol=ROUNDING)


def test_the_reference_is_its_formula() -> None:
    """One pixel, by hand: the weights of a 3 x 3 window whose patches are 3 x 3 too."""
    x, _ = scene((5, 5))
    i, sigma, total, sums = np.array([2, 2]), 0.3, 0.0, 0.0
    wide = np.pad(x.astype(float), 2, mode="reflect")

    def patch(at: Array) -> Array:
        return wide[at[0] + 1 : at[0] + 4, at[1] + 1 : at[1] + 4]

    for offset in np.ndindex(3, 3):
        j = i + np.array(offset) - 1
        d = np.mean((patch(i) - patch(j)) ** 2) / (2 * sigma**2)
        w = 1.0 if (i == j).all() else math.exp(-max(d - 0.1, 0) - ((i - j) ** 2).sum() / (2 * 1.5**2))
        total, sums = total + w, sums + w * x[tuple(j)]
    options: dict[str, Any] = {"spatial_sigma": 1.5, "radius": 1, "patch": 1, "bias": 0.1}
    assert reference(x.astype(float), x.astype(float), sigma, (1.0,), **options)[0, 2, 2] == pytest.approx(sums / total)
    assert patch_bilateral(x, x, sigma, **options)[2, 2] == pytest.approx(sums / total, abs=ROUNDING)


def test_pixels_need_not_be_square() -> None:
    across = spatial_weights(2, (1.0, 3.0))
    assert across[0, 2] == pytest.approx(math.exp(-2))
    assert across[2, 0] == pytest.approx(math.exp(-4 / 18))
    assert (spatial_weights(2, math.inf) == 1).all()
    x, level = scene((9, 20))
    options: dict[str, Any] = {"spatial_sigma": (1.0, 3.0), "radius": 3, "patch": 3, "bias": 0.5}
    truth = reference(x.astype(float), x.astype(float), level, (0.7, 2.0), **options)
    np.testing.assert_allclose(patch_bilaterals(x, x, level, (0.7, 2.0), **options), truth, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("own", [True, False], ids=["own", "other"])
@pytest.mark.parametrize(("patch", "factors"), [(1, (0.8,)), (2, (1.4, 2.0))], ids=["3x3", "5x5"])
def test_another_slice_is_added_as_by_the_reference(
    shape: tuple[int, int], own: bool, patch: int, factors: tuple[float, ...]
) -> None:
    (x, level), (y, _) = scene(shape), scene(shape, 1)
    there = x if own else y
    low = 0.02 * np.ones(shape, np.float32)
    fast = np.stack([x] * len(factors)), np.ones((len(factors), *shape), np.float32)
    slow = fast[0].astype(float), fast[1].astype(float)
    options: dict[str, Any] = {"bias": 1.0, "low_bias": 2.0, "radius": 3, "patch": patch, "own": own}
    options["weight"] = 1.0 if own else 0.3
    accumulate(*fast, there, x, there, level, factors, x / 2, there / 2, low, **options)
    wide = [a.astype(float) for a in (there, x, there, level)]
    halves = [a.astype(float) / 2 for a in (x, there)]
    accumulate_reference(*slow, *wide, factors, *halves, low, **options)
    np.testing.assert_allclose(fast[1], slow[1], rtol=ROUNDING)
    np.testing.assert_allclose(fast[0] / fast[1], slow[0] / slow[1], rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("sigma", [0.0, 1e-6, 1e-3, 1e6])
def test_extreme_widths_stay_finite_and_right(sigma: float) -> None:
    x, _ = scene((20, 33))
    x[:10] = 0  # equal patches, whatever the width
    planes = patch_bilaterals(x, x, sigma, (0.5, 2.0), spatial_sigma=2.0, radius=2, patch=1)
    truth = reference(x.astype(float), x.astype(float), sigma, (0.5, 2.0), spatial_sigma=2.0, radius=2, patch=1)
    assert np.isfinite(planes).all()
    np.testing.assert_allclose(planes, truth, rtol=0, atol=ROUNDING)


def test_float64_is_taken_as_float32_and_layout_does_not_matter() -> None:
    x, level = scene((20, 33))
    expected = patch_bilateral(x, x, level)
    wide = np.asfortranarray(x.astype(float))
    assert patch_bilateral(wide, wide, level.astype(float)).tobytes() == expected.tobytes()


def everything() -> bytes:
    """What both kernels make of an image of several tiles."""
    (x, level), (y, _) = scene((90, 301)), scene((90, 301), 1)
    out, total = np.stack([x, x]), np.ones((2, *x.shape), np.float32)
    accumulate(
        out, total, y, x, y, level, (1.4, 2.0), x / 2, y / 2, level, bias=1.0, low_bias=2.0, radius=2, patch=2,
    )  # fmt: skip
    return filtered(x, level).tobytes() + out.tobytes() + total.tobytes()


def test_same_bits_again_and_with_any_number_of_threads() -> None:
    before, results = torch.get_num_threads(), set()
    try:
        for threads in (1, 2, 2, 3, 7):
            torch.set_num_threads(threads)
            with kernels_own_the_threads():
                results.add(everything())
    finally:
        torch.set_num_threads(before)
    assert len(results) == 1


@pytest.mark.slow
def test_same_bits_from_a_process_that_compiles_and_one_that_loads_from_the_cache(tmp_path: Path) -> None:
    """A helper that is not inlined is another function in the second process, with other rounding."""
    code = (
        "import hashlib, sys; sys.path.insert(0, sys.argv[1]); from test_bilateral import everything;"
        "print(hashlib.sha256(everything()).hexdigest())"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    digests = [
        subprocess.run(
            [sys.executable, "-c", code, str(Path(__file__).parent)], env=environment, capture_output=True, text=True,
            check=True,
        ).stdout
        for _ in range(2)
    ]  # fmt: skip
    assert digests[0]
    assert digests[0] == digests[1]
    assert any(tmp_path.rglob("*.nbc"))
