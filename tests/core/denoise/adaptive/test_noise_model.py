import warnings

import numpy as np
import pytest
import scipy.fft
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from attn.core.denoise.adaptive.mixture import PRESETS, denoise_slice
from attn.core.denoise.adaptive.noise_model import LAGS, NoiseModel, estimate

Plane = NDArray[np.float32]
SIDE = 192


def white(shape: tuple[int, ...], seed: int = 0) -> Plane:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def grey(*shape: int, level: float = 0.02, seed: int = 0) -> Plane:
    return np.float32(0.5) + np.float32(level) * white(shape, seed)


def known_noise(width: float, ramp: bool, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Noise [SIDE, SIDE] of variance 1 behind a Gaussian (and a ramp, as in CT), and its autocovariance."""
    f = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.fftfreq(SIDE)[None])
    power = np.exp(-4 * (np.pi * f * width) ** 2) * (f if ramp else 1)
    power /= power.mean()
    noise = np.fft.ifft2(np.fft.fft2(white((SIDE, SIDE), seed)) * np.sqrt(power)).real
    lags = np.arange(-LAGS, LAGS + 1)
    return noise, np.fft.ifft2(power).real[lags[:, None], lags[None]]


def covariance(u: Plane) -> NDArray[np.float64]:
    """Of noise that goes on around the border."""
    lags = np.arange(-LAGS, LAGS + 1)
    return (np.fft.ifft2(np.abs(np.fft.fft2(u)) ** 2).real / (u**2).sum())[lags[:, None], lags[None]]


def rms(a: NDArray[np.floating]) -> float:
    return float(np.sqrt(np.mean(a.astype(np.float64) ** 2)))


@pytest.mark.parametrize(("width", "ramp"), [(0.0, False), (0.6, False), (0.6, True), (1.0, True)])
@pytest.mark.parametrize("rise", [0.0, 2.0], ids=["one level", "1 to 3"])
def test_finds_the_noise_that_was_put_in(width: float, ramp: bool, rise: float) -> None:
    noise, correlation = known_noise(width, ramp)
    level = 0.01 * (1 + rise * np.linspace(0, 1, SIDE))[None]
    model = estimate(0.5 + level * noise)
    assert rms(model.level / level - 1) < (0.1 if rise else 0.05)
    np.testing.assert_allclose(model.correlation, correlation, atol=0.05)

    sample = model.sample(np.random.default_rng(1)) / model.level
    assert rms(sample) == pytest.approx(1, abs=0.1)
    np.testing.assert_allclose(covariance(sample), correlation, atol=0.08)
    assert rms(model.stationary(np.random.default_rng(1)) / model.level) == pytest.approx(1, abs=1e-4)


def test_the_sample_follows_streaks() -> None:
    noise = gaussian_filter(white((128, 256)), (0, 1.5)) * 3
    noise[:, 128:] = gaussian_filter(white((128, 128), 1), (1.5, 0)) * 3
    sample = estimate(0.5 + 0.01 * noise).sample(np.random.default_rng(1))

    def along_rows(a: Plane) -> float:
        """Correlation with the next pixel of the row, less that with the next of the column."""
        return float((a[:, 1:] * a[:, :-1]).mean() / a.var() - (a[1:] * a[:-1]).mean() / a.var())

    assert along_rows(sample[:, :96]) > 0.3
    assert along_rows(sample[:, 160:]) < -0.3


def test_oblong_pixels_keep_their_own_correlation() -> None:
    x = 0.5 + 0.01 * gaussian_filter(white((SIDE, SIDE)), (0, 0.7)) * 1.8
    square, oblong = (estimate(x, aspect=aspect).correlation for aspect in (1.0, 2.0))
    np.testing.assert_allclose(square, square.T, atol=1e-12)
    assert oblong[LAGS, LAGS + 1] - oblong[LAGS + 1, LAGS] > 0.3
    np.testing.assert_array_equal(estimate(x, aspect=1.005).correlation, square)


@pytest.mark.parametrize("aspect", [0.0, -1.0, np.nan, np.inf])
def test_an_aspect_that_is_none(aspect: float) -> None:
    with pytest.raises(ValueError, match="aspect must be a positive number"):
        estimate(grey(8, 8), aspect=aspect)


def circle(side: int, radius: float) -> NDArray[np.bool_]:
    return np.hypot(*(np.mgrid[:side, :side] - (side - 1) / 2)) < radius


def structure(side: int = 96) -> Plane:
    """Discs and bars without noise."""
    x = np.where(circle(side, 0.4 * side), 0.5, 0.2).astype(np.float32)
    x[20:40, 30:60:4] = 0.8
    return x


def outlier() -> Plane:
    x = grey(96, 96)
    x[40, 40] = 1e6
    return x


HARMLESS = {  # nothing to be removed
    **{f"grey {h}x{w}": np.full((h, w), 0.5, np.float32) for h, w in [(1, 1), (1, 2), (3, 1), (5, 7), (40, 13)]},
    **{f"noisy {h}x{w}": grey(h, w) for h, w in [(1, 1), (1, 2), (2, 2), (1, 90)]},
    "0": np.zeros((40, 40), np.float32),
    "1": np.ones((40, 40), np.float32),
    "0.3": np.full((64, 64), 0.3, np.float32),  # not a binary number: means differ from it by rounding
    "no noise": structure(),
    "clipped": (white((64, 64)) > 0).astype(np.float32),
    "whole numbers": (white((64, 64)) > 0).astype(np.int64),
    "stripes": np.tile(np.array([0.2, 0.8], np.float32), (64, 32)),
    "ramp": np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1)),
    "one pixel": np.pad([[np.float32(0.9)]], 30),
    "faint": grey(64, 64, level=1e-7),
}
NOISY = {
    "5x7": grey(5, 7),
    "8x100": grey(8, 100),
    "33x17": grey(33, 17),
    "float64": grey(48, 48).astype(np.float64),
    "float16": grey(48, 48).astype(np.float16),
    "other order": np.asfortranarray(grey(48, 40)),
    "noise alone": np.clip(grey(96, 96, level=0.3), 0, 1),
    "1e-6": grey(64, 64, level=1e-6),
    "outlier": outlier(),
    "stripes and noise": np.tile(np.array([0.2, 0.8], np.float32), (64, 32)) + 0.01 * white((64, 64)),
}
MASKS = {
    "none": np.zeros((96, 96), bool),
    "one": circle(96, 0.8),
    "ring": circle(96, 46) & ~circle(96, 43),
    "round": circle(96, 46),
}


def denoised(x: NDArray[np.generic], model: NoiseModel) -> Plane:
    """With every warning of NumPy, and everything that is no number, as a failure."""
    sample = model.sample(np.random.default_rng(0))
    for a in (model.level, model.correlation, model.residual, model.raw, sample):
        assert np.isfinite(a).all()
    assert (model.level > 0).all()
    result, _ = denoise_slice(np.ascontiguousarray(x, np.float32), model, PRESETS["default"])
    assert np.isfinite(result).all()
    return result


@pytest.fixture(autouse=True)
def _no_warnings() -> object:
    with warnings.catch_warnings(), np.errstate(all="raise", under="ignore"):
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("name", HARMLESS)
def test_leaves_alone_what_has_no_noise(name: str) -> None:
    x = HARMLESS[name]
    np.testing.assert_allclose(denoised(x, estimate(x)), x, atol=3e-6)


@pytest.mark.parametrize("name", NOISY)
def test_takes_any_slice(name: str) -> None:
    denoised(NOISY[name], estimate(NOISY[name]))


@pytest.mark.parametrize("name", MASKS)
def test_takes_any_mask(name: str) -> None:
    x = np.where(MASKS[name], grey(96, 96), 0)
    model = estimate(x, MASKS[name])
    result = denoised(x, model)
    if name != "round":  # nothing to judge by
        np.testing.assert_allclose(result, x, atol=3e-6)
    else:
        assert rms(model.level[MASKS[name]]) == pytest.approx(0.02, rel=0.1)
        assert not model.flat[~MASKS[name]].any()


def test_padding_has_no_part_in_the_noise() -> None:
    mask = circle(128, 50)
    x = grey(128, 128)
    loud = np.where(mask, x, grey(128, 128, level=0.1, seed=1))
    assert rms(estimate(loud, mask).level[mask]) == pytest.approx(0.02, rel=0.1)
    assert rms(estimate(loud).level[mask]) > 0.03


def test_the_same_slice_and_seed_give_the_same_bytes() -> None:
    x = grey(70, 90)
    first, second = estimate(x, seed=3), estimate(x, seed=3)
    with scipy.fft.set_workers(2):
        third = estimate(x, seed=3)
    sample = first.sample(np.random.default_rng(0))
    for other in (second, third):
        for name in ("level", "correlation", "flat", "residual", "raw"):
            np.testing.assert_array_equal(getattr(first, name), getattr(other, name))
        np.testing.assert_array_equal(sample, other.sample(np.random.default_rng(0)))


def test_a_model_seen_in_its_own_slice_is_itself() -> None:
    x = structure() + 0.02 * white((96, 96))
    model = estimate(x, MASKS["round"])
    again = model.seen_in(x, MASKS["round"])
    np.testing.assert_array_equal(model.flat, again.flat)
    np.testing.assert_array_equal(model.residual, again.residual)


def test_a_model_in_another_slice() -> None:
    one, other = (structure() + 0.02 * white((96, 96), seed) for seed in (0, 1))
    model, own = estimate(one), estimate(other)
    taken = model.seen_in(other)
    assert taken.level is model.level
    assert taken.correlation is model.correlation
    inside = taken.flat & own.flat
    assert np.corrcoef(taken.residual[inside], own.residual[inside])[0, 1] > 0.99
    assert abs(np.corrcoef(taken.residual[inside], model.residual[inside])[0, 1]) < 0.1


def test_shapes_that_do_not_fit() -> None:
    model = estimate(grey(20, 30))
    with pytest.raises(ValueError, match=r"noise model is of a slice \(20, 30\), this slice is \(30, 20\)"):
        model.seen_in(grey(30, 20))
    with pytest.raises(ValueError, match=r"mask of valid pixels \(3, 3\)"):
        estimate(grey(20, 30), np.ones((3, 3), bool))
    for shape in [(0, 4), (2, 3, 4), (5,)]:
        with pytest.raises(ValueError, match=r"expected a slice \[H, W\]"):
            estimate(np.zeros(shape, np.float32))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number(bad: float) -> None:
    x = np.pad(grey(20, 30), 3, constant_values=bad)
    with pytest.raises(ValueError, match="NaN or infinity"):
        estimate(x)
    with pytest.raises(ValueError, match="NaN or infinity"):
        estimate(grey(26, 36)).seen_in(x)
