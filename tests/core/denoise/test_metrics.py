import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn.core.denoise.metrics import psnr, rmse, ssim


def pair(height: int = 40, width: int = 30, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    clean = rng.random((height, width))
    return clean + 0.1 * rng.standard_normal(clean.shape), clean


def test_psnr_of_a_known_error() -> None:
    clean = np.zeros((8, 8), np.float32)
    assert psnr(clean + 0.1, clean) == pytest.approx(20, abs=1e-5)
    assert psnr(clean + 100, clean, data_range=1000) == pytest.approx(20)
    assert rmse(clean + 3, clean) == pytest.approx(3)


def test_equal_images() -> None:
    _, clean = pair()
    assert psnr(clean, clean) == math.inf
    assert ssim(clean, clean) == pytest.approx(1)
    assert rmse(clean, clean) == 0


@given(scale=st.floats(0.1, 5000), shift=st.floats(-1000, 1000))
def test_the_unit_does_not_matter_when_the_range_follows(scale: float, shift: float) -> None:
    noisy, clean = pair(16, 16)
    assert psnr(noisy * scale + shift, clean * scale + shift, data_range=scale) == pytest.approx(
        psnr(noisy, clean), abs=1e-6
    )


@pytest.mark.parametrize("metric", [rmse, psnr, ssim])
def test_padding_takes_no_part(metric) -> None:
    noisy, clean = pair()
    valid = np.ones(clean.shape, bool)
    valid[:, :9] = False
    wild = np.where(valid, noisy, -50.0)  # what padding holds must not matter, in either image
    expected = metric(noisy[:, 9:], clean[:, 9:])
    assert metric(wild, np.where(valid, clean, 77.0), valid=valid) == pytest.approx(expected, rel=1e-9)
    assert metric(wild, clean) != pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("metric", [rmse, psnr, ssim])
def test_nothing_valid_is_nan(metric) -> None:
    noisy, clean = pair()
    assert math.isnan(metric(noisy, clean, valid=np.zeros(clean.shape, bool)))


@pytest.mark.parametrize(("shape", "defined"), [((6, 30), False), ((30, 6), False), ((1, 1), False), ((7, 7), True)])
def test_ssim_needs_seven_pixels(shape: tuple[int, int], defined: bool) -> None:
    noisy, clean = pair(*shape)
    assert math.isnan(ssim(noisy, clean)) != defined


def test_a_stack_is_pooled() -> None:
    pairs = [pair(seed=seed) for seed in range(3)]
    noisy, clean = np.stack([a for a, _ in pairs]), np.stack([b for _, b in pairs])
    assert ssim(noisy, clean) == pytest.approx(np.mean([ssim(a, b) for a, b in pairs]))
    assert rmse(noisy, clean) ** 2 == pytest.approx(np.mean([rmse(a, b) ** 2 for a, b in pairs]))


@pytest.mark.parametrize("metric", [rmse, psnr, ssim])
def test_shapes_that_do_not_fit(metric) -> None:
    noisy, clean = pair()
    with pytest.raises(ValueError, match="same shape"):
        metric(noisy, clean[1:])
    with pytest.raises(ValueError, match="mask of valid pixels"):
        metric(noisy, clean, valid=np.ones((2, 2), bool))
    with pytest.raises(ValueError, match=r"\[H, W\]"):
        metric(noisy[0], clean[0])


@pytest.mark.parametrize("data_range", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("metric", [psnr, ssim])
def test_the_range_is_positive(metric, data_range: float) -> None:
    with pytest.raises(ValueError, match="data_range"):
        metric(*pair(), data_range=data_range)
