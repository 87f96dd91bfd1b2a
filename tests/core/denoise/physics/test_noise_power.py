import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from attn.core.denoise.physics.noise_power import (
    ENOUGH,
    NoisePower,
    Squares,
    noise_power,
    squares_in,
    uniform_squares,
)


def noise(shape: tuple[int, int], width: float, std: float, seed: int = 0) -> np.ndarray:
    """Gaussian noise [1, H, W], correlated by a Gaussian of ``width`` pixels; the standard deviation is exact."""
    field = np.random.default_rng(seed).standard_normal(shape)
    field = gaussian_filter(field, width, mode="wrap") if width else field
    return (field * (std / field.std()))[None]


def everywhere(pixels: np.ndarray, side: int) -> Squares:
    h, w = pixels.shape[1:]
    return Squares(
        side, np.array([(0, y, x) for y in range(0, h - side + 1, side) for x in range(0, w - side + 1, side)])
    )


@pytest.mark.parametrize(("width", "side", "slack"), [(0, 32, 0.01), (0, 64, 0.01), (0.8, 32, 0.02), (1.5, 64, 0.02)])
def test_the_integral_is_the_variance(width: float, side: int, slack: float) -> None:
    pixels = 40 + noise((256, 256), width, 12.5)
    power = noise_power(pixels, everywhere(pixels, side), (0.7, 0.7))
    assert power.std == pytest.approx(12.5, rel=slack)  # the polynomial takes 6 of side² degrees of freedom
    down = np.fft.fftfreq(side, 0.7)
    assert power.spectrum.sum() * (down[1] - down[0]) ** 2 == pytest.approx(power.std**2)


def test_white_noise_has_a_flat_spectrum() -> None:
    pixels = noise((512, 512), 0, 10)
    power = noise_power(pixels, everywhere(pixels, 32), (0.5, 0.5))
    assert power.frequency[[0, -1]] == pytest.approx([1 / 16, 1.0])  # 1 / (32 * 0.5 mm) ... Nyquist
    assert power.radial[3:] == pytest.approx(10**2 * 0.5**2, rel=0.06)  # below, the polynomial takes some away
    assert power.mean_frequency == pytest.approx(power.frequency.mean(), rel=0.05)


def test_correlated_noise_has_the_spectrum_of_its_filter() -> None:
    width, pixel = 1.0, 0.8
    pixels = noise((512, 512), width, 20)
    power = noise_power(pixels, everywhere(pixels, 64), (pixel, pixel))
    shape = np.exp(-((2 * math.pi * width * pixel * power.frequency) ** 2))
    expected = shape * 20**2 * 4 * math.pi * (width * pixel) ** 2  # whose integral over the plane is 20²
    low = slice(3, 16)
    assert power.radial[low] == pytest.approx(expected[low], rel=0.15)
    assert power.peak_frequency < 0.1
    assert power.mean_frequency == pytest.approx((power.frequency * shape).sum() / shape.sum(), rel=0.1)


def test_pixels_that_are_not_square() -> None:
    """Noise that is isotropic in mm has the same spectrum however it is sampled."""
    square = noise((512, 512), 2.0, 10)
    flat = square[:, ::2]  # rows of twice the distance
    powers = [
        noise_power(square, everywhere(square, 64), (0.5, 0.5)),
        noise_power(flat, everywhere(flat, 64), (1.0, 0.5)),
    ]
    assert powers[1].frequency[-1] == pytest.approx(0.5)  # Nyquist of the coarser
    assert powers[1].std == pytest.approx(10, rel=0.05)
    for frequency in (0.1, 0.2):
        a, b = (np.interp(frequency, power.frequency, power.radial) for power in powers)
        assert a == pytest.approx(b, rel=0.2)


def test_cupping_is_no_noise() -> None:
    y, x = np.mgrid[:128, :128] - 64.0
    pixels = noise((128, 128), 0, 5) + (0.01 * x**2 - 0.02 * x * y + 0.3 * y + 100)
    assert noise_power(pixels, everywhere(pixels, 32)).std == pytest.approx(5, rel=0.02)


def test_without_noise() -> None:
    power = noise_power(np.full((1, 64, 64), 7.0), Squares(32, np.array([(0, 0, 0)])))
    assert power.std == pytest.approx(0, abs=1e-9)
    nothing = NoisePower(np.zeros((32, 32)), (1, 1), 1)
    assert math.isnan(nothing.peak_frequency)
    assert math.isnan(nothing.mean_frequency)


def test_without_a_region() -> None:
    with pytest.raises(ValueError, match="no region"):
        noise_power(np.zeros((1, 64, 64)), Squares(32, np.zeros((0, 3), int)))


def uniform(flat: np.ndarray, pixels: np.ndarray, usable: np.ndarray | None = None) -> Squares | None:
    every = np.ones(pixels.shape, bool)
    return uniform_squares(flat, every if usable is None else usable, np.full(pixels.shape, 5.0), pixels)


def test_uniform_squares_keep_off_what_is_not_flat() -> None:
    pixels = noise((160, 160), 0, 5)
    flat = np.ones(pixels.shape, bool)
    flat[:, :, 80:] = False
    squares = uniform(flat, pixels)
    assert squares is not None
    assert squares.side == 64
    assert (squares.corners[:, 2] + 64 <= 80 + 0.1 * 64 + 1).all()
    assert len(squares) >= ENOUGH


def test_uniform_squares_hold_no_unusable_pixel() -> None:
    pixels = noise((160, 160), 0, 5)
    usable = np.ones(pixels.shape, bool)
    usable[0, 40, 40] = usable[0, 100, 90] = False
    squares = uniform(usable, pixels, usable)
    assert squares is not None
    assert squares.cut(usable).all()


def test_uniform_squares_overlap_by_half_at_most() -> None:
    pixels = noise((200, 200), 0, 5)
    squares = uniform(np.random.default_rng(1).random(pixels.shape) > 0.05, pixels)
    assert squares is not None
    apart = np.abs(squares.corners[:, None] - squares.corners[None])[..., 1:].max(-1)
    assert (apart[~np.eye(len(squares), dtype=bool)] >= squares.side // 2).all()


def test_uniform_squares_that_vary_more_than_the_noise_are_left_out() -> None:
    pixels = noise((200, 200), 0, 5)
    pixels[0, :, :100:7] += 20  # texture that was taken for flat
    squares = uniform(np.ones(pixels.shape, bool), pixels)
    assert squares is not None
    assert (squares.corners[:, 2] >= 95).all()


def test_no_uniform_square() -> None:
    pixels = noise((100, 100), 0, 5)
    flat = np.ones(pixels.shape, bool)
    flat[:, ::9] = False
    assert uniform(flat[:, :20], pixels[:, :20]) is None
    assert uniform(flat, pixels, flat) is None


@pytest.mark.parametrize(
    ("boxes", "side", "corners"),
    [
        ([(0, 0, 16, 16)], 16, [(0, 0)]),
        ([(10, 20, 42, 68)], 32, [(20, 10), (36, 10)]),
        ([(0, 0, 100, 64)], 64, [(0, 0), (0, 36)]),
        ([(0, 0, 500, 500), (0, 0, 20, 20)], 20, None),
    ],
)
def test_rectangles_are_filled(boxes, side, corners) -> None:
    squares = squares_in(boxes, 1)
    assert squares.side == side
    if corners:
        assert [(y, x) for _, y, x in squares.corners] == corners
    assert len(squares_in(boxes, 3)) == 3 * len(squares)
