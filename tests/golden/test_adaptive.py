"""The adaptive denoiser against its reference implementation: methods/adaptive-denoise.md, sections 2 and 6.

Recorded by record_adaptive.py. Tolerance 1e-4 of the noise level, 0.01 dB.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from attn.core.denoise.adaptive.mixture import PRESETS, denoise_slice
from attn.core.denoise.adaptive.neighbours import SliceGeometry
from attn.core.denoise.adaptive.noise_model import NoiseModel, estimate
from attn.core.denoise.adaptive.volume import FromVolume, denoise_volume, slicewise
from attn.core.denoise.metrics import psnr

TOLERANCE, DECIBEL = 1e-4, 0.01
Vectors = dict[str, NDArray[np.float32]]


def load(name: str) -> Vectors:
    with np.load(Path(__file__).parent / "vectors" / "adaptive" / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


@pytest.fixture(scope="module", params=["white", "correlated", "clipped", "round"])
def case(request: pytest.FixtureRequest) -> tuple[Vectors, NoiseModel]:
    vectors = load(request.param)
    return vectors, estimate(vectors["noisy"], valid(vectors))


def valid(vectors: Vectors) -> NDArray[np.bool_] | None:
    return vectors.get("valid")  # type: ignore[return-value]


def test_noise_model(case: tuple[Vectors, NoiseModel]) -> None:
    vectors, model = case
    np.testing.assert_allclose(model.level[::4, ::4], vectors["level"], rtol=TOLERANCE)
    np.testing.assert_allclose(model.correlation, vectors["correlation"], atol=TOLERANCE)


def test_synthetic_noise(case: tuple[Vectors, NoiseModel]) -> None:
    vectors, model = case
    difference = np.abs(model.sample(np.random.default_rng(0)) - vectors["sample"]) / model.level
    assert difference.max() < 10 * TOLERANCE  # the root of a spectrum that is nearly 0: 1e-6 becomes 1e-3


def test_mixture(case: tuple[Vectors, NoiseModel]) -> None:
    vectors, model = case
    result, weights = denoise_slice(vectors["noisy"], model, PRESETS["default"])
    np.testing.assert_allclose(weights[:, ::4, ::4], vectors["weights"], atol=10 * TOLERANCE)
    np.testing.assert_allclose(result, vectors["result"], atol=TOLERANCE)
    ours, theirs = (
        psnr(np.clip(y, 0, 1).astype(np.float32), vectors["truth"], valid=valid(vectors))
        for y in (result, vectors["result"])
    )
    assert ours == pytest.approx(theirs, abs=DECIBEL)


def in_volume(vectors: Vectors) -> Iterator[tuple[int, FromVolume]]:
    offsets = tuple((float(y), float(x)) for y, x in vectors["offsets"])
    geometry = SliceGeometry(tuple(map(float, vectors["positions"])), offsets)
    for i, seen in denoise_volume(vectors["noisy"], geometry, PRESETS["default"], allowed=4.0):  # the reference's guard
        counted = [rho for rho in vectors["correlations"][i] if rho >= 0]
        np.testing.assert_allclose(seen.correlations, counted, atol=0.01 if offsets[i][0] else TOLERANCE)
        yield i, seen


def test_series() -> None:
    vectors = load("series")
    for i, seen in in_volume(vectors):
        np.testing.assert_allclose(seen.result, vectors["result"][i], atol=TOLERANCE)
        assert seen.from_neighbours.mean() == pytest.approx(vectors["from_neighbours"][i], abs=TOLERANCE)
        ours, theirs = (psnr(np.clip(y, 0, 1), vectors["truth"][i]) for y in (seen.result, vectors["result"][i]))
        assert ours == pytest.approx(theirs, abs=DECIBEL)


def test_shifted_slices_lose_nothing() -> None:
    """Where a shifted neighbour ends, the reference repeats its edge pixels; ours leaves them out."""
    vectors = load("tilted")
    for i, seen in in_volume(vectors):
        assert psnr(np.clip(seen.result, 0, 1), vectors["truth"][i]) > vectors["psnr"][i] - DECIBEL


def test_a_slice_without_neighbours() -> None:
    vectors = load("series")
    alone = slicewise(vectors["noisy"][3], None, PRESETS["default"], seed=3).alone
    np.testing.assert_allclose(alone, vectors["alone"], atol=TOLERANCE)
