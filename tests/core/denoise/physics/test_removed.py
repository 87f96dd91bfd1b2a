import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from attn.core.denoise.physics.edges import distance
from attn.core.denoise.physics.removed import edge_correlation


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """Discs of many contrasts."""
    rng = np.random.default_rng(0)
    image = np.zeros((200, 200))
    for row, column, radius, value in zip(*rng.uniform((0, 0, 5, -200), (200, 200, 20, 200), (40, 4)).T, strict=True):
        image[distance(image.shape, row, column) <= radius] = value
    return gaussian_filter(image, 0.8)


def draw(seed: int) -> np.ndarray:
    field = gaussian_filter(np.random.default_rng(seed).standard_normal((200, 200)), 0.8)
    return 10 * field / field.std()


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return draw(1)


@pytest.mark.parametrize(("left", "bias"), [(0.0, 0.03), (0.3, 0.08)])
def test_pure_noise_is_not_correlated(image, left, bias) -> None:
    """Each draw scatters by its few hundred independent edge pixels; noise that is left in adds a little."""
    seen = [edge_correlation(image + draw(seed), image + left * draw(seed), 10) for seed in range(12)]
    assert np.mean(seen) == pytest.approx(0, abs=bias)
    assert np.max(np.abs(seen)) < 0.2


@pytest.mark.parametrize("width", [0.7, 1.5])
def test_blur_takes_edges(image, noise, width) -> None:
    noisy = image + noise
    assert edge_correlation(noisy, gaussian_filter(noisy, width), 10) > 0.6


def test_sharpening_is_negative(image, noise) -> None:
    noisy = image + noise
    assert edge_correlation(noisy, 2 * noisy - gaussian_filter(noisy, 1.0), 10) < -0.3


def test_unusable_pixels_do_not_count(image, noise) -> None:
    usable = np.ones(image.shape, bool)
    usable[:, 100:] = False
    after = image.copy()
    after[:, 104:] = gaussian_filter(image, 2)[:, 104:]
    assert edge_correlation(image + noise, after, 10) > 0.3
    assert edge_correlation(image + noise, after, 10, usable) == pytest.approx(0, abs=0.15)


@pytest.mark.parametrize("level", [10.0, 0.0, math.nan])
def test_nothing_to_say(noise, level) -> None:
    flat = np.zeros_like(noise)
    assert math.isnan(edge_correlation(noise, flat, level))  # no edges, or no noise
