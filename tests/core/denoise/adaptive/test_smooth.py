"""Gaussian means by cosine transforms are scipy's convolution."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from attn.core.denoise.adaptive.smooth import gaussian_mean


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (7, 5), (64, 101)], ids=str)
@pytest.mark.parametrize("sigma", [0.7, 16.0])
def test_it_is_the_convolution(shape: tuple[int, int], sigma: float) -> None:
    planes = np.random.default_rng(0).random((2, *shape)) ** 8  # a few bright pixels
    expected = np.stack([gaussian_filter(plane, sigma) for plane in planes])
    np.testing.assert_allclose(gaussian_mean(planes, sigma), expected, rtol=0, atol=1e-14)
    single = gaussian_mean(planes.astype(np.float32), sigma)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, expected, rtol=0, atol=3e-7)
