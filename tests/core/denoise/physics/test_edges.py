import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from attn.core.denoise.physics.edges import EdgeResponse, edge_response

FINE = 9


def disc(radius: float, blur: float, centre: tuple[float, float] = (30.3, 31.7), side: int = 61) -> np.ndarray:
    """1 in a disc behind a Gaussian of ``blur`` pixels, as pixels measure it."""
    axis = (np.arange(side * FINE) + 0.5) / FINE - 0.5
    fine = np.hypot(axis[:, None] - centre[0], axis[None] - centre[1]) <= radius
    return gaussian_filter(fine.astype(float), blur * FINE).reshape(side, FINE, side, FINE).mean((1, 3))


def expected(blur: float, share: float) -> float:
    """Where the transfer of the Gaussian and the pixel's aperture falls to ``share``, in cycles per pixel."""
    f = np.arange(0, 1, 0.001)
    angle = np.linspace(0, math.pi / 2, 50)[:, None]
    aperture = (np.sinc(f * np.cos(angle)) * np.sinc(f * np.sin(angle))).mean(0)
    return float(f[np.argmax(aperture * np.exp(-2 * (math.pi * blur * f) ** 2) < share)])


@pytest.mark.parametrize(("radius", "blur"), [(5.7, 0.7), (5.7, 1.0), (7.1, 1.5), (11.4, 1.0), (11.4, 2.0)])
def test_a_gaussian_is_found(radius: float, blur: float) -> None:
    response = edge_response(40 - 960 * disc(radius, blur), 30.3, 31.7, radius)
    assert response.falls_to(0.5) == pytest.approx(expected(blur, 0.5), rel=0.015)
    assert response.falls_to(0.1) == pytest.approx(expected(blur, 0.1), rel=0.015)


def test_frequencies_are_per_mm() -> None:
    image = 100 * disc(8, 1.0)
    pixel, mm = (edge_response(image, 30.3, 31.7, 8, pixel_mm=size) for size in (1.0, 0.5))
    assert mm.falls_to(0.5) == pytest.approx(2 * pixel.falls_to(0.5))
    assert pixel.transfer[0] == 1


def test_contrast_and_background_do_not_count() -> None:
    image = disc(8, 1.0)
    curves = [edge_response(a * image + b, 30.3, 31.7, 8).transfer for a, b in ((1, 0), (-300, 50))]
    assert curves[0] == pytest.approx(curves[1])


def test_noise_moves_a_strong_edge_little() -> None:
    image = 960 * disc(8, 1.2)
    noise = gaussian_filter(np.random.default_rng(0).standard_normal((20, *image.shape)), (0, 0.8, 0.8))
    noise *= 20 / noise.std()
    clean = edge_response(image, 30.3, 31.7, 8).falls_to(0.5)
    seen = [edge_response(image + n, 30.3, 31.7, 8).falls_to(0.5) for n in noise]
    assert np.mean(seen) == pytest.approx(clean, rel=0.01)
    assert np.std(seen) < 0.03 * clean


def test_what_never_falls() -> None:
    response = EdgeResponse(np.array([0.0, 0.1, 0.2]), np.array([1.0, 0.8, 0.6]), 10.0)
    assert response.falls_to(0.7) == pytest.approx(0.15)
    assert math.isnan(response.falls_to(0.5))


def test_a_rod_that_is_too_small_for_its_blur_says_nothing() -> None:
    response = edge_response(disc(4, 2.0), 30.3, 31.7, 4)
    assert math.isnan(response.falls_to(0.5))
    assert response.falls_to(0.1) == pytest.approx(expected(2.0, 0.1), rel=0.25)


@pytest.mark.parametrize(
    ("image", "place", "message"),
    [
        (disc(8, 1.0), (10, 31, 8), "no 8 pixels around it"),
        (disc(8, 1.0), (30, 31, 0), "no 0 pixels around it"),
        (np.full((61, 61), 5.0), (30, 31, 8), "no contrast"),
    ],
)
def test_what_cannot_be_measured(image: np.ndarray, place: tuple[float, float, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        edge_response(image, *place)
