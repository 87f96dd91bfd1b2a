import numpy as np
import pytest

from attn.core.denoise.adaptive.mixture import PRESETS, denoise_slice
from attn.core.denoise.adaptive.noise_model import estimate
from attn.core.denoise.adaptive.padding import filled


def test_padding_holds_the_nearest_valid_pixel() -> None:
    x = np.array([[np.nan, 1, 2], [np.nan, 3, 4], [np.inf, np.nan, 5]], np.float32)
    expected = np.array([[1, 1, 2], [3, 3, 4], [3, 3, 5]], np.float32)
    result = filled(x, np.isfinite(x))
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result[:2], expected[:2])
    assert result[2, 2] == 5
    assert result[2, 1] in (3, 5)  # both are one pixel away


@pytest.mark.parametrize("valid", [None, np.ones((4, 5), bool)])
def test_nothing_to_fill(valid: np.ndarray | None) -> None:
    x = np.ones((4, 5))
    assert filled(x, valid) is x


def test_nothing_valid() -> None:
    np.testing.assert_array_equal(filled(np.full((4, 5), np.nan), np.zeros((4, 5), bool)), 0)


def test_a_filled_rim_is_denoised() -> None:
    """With one number in the padding no patch at the rim is like another."""
    x = (0.5 + 0.02 * np.random.default_rng(0).standard_normal((128, 128))).astype(np.float32)
    away = np.hypot(*(np.mgrid[:128, :128] - 63.5))
    valid, rim = away < 55, (away < 55) & (away > 52)

    def left(seen: np.ndarray) -> float:
        result, _ = denoise_slice(seen, estimate(seen, valid), PRESETS["default"])
        return float((result - 0.5)[rim].std())

    assert left(filled(x, valid)) < 0.6 * left(np.where(valid, x, 0))
