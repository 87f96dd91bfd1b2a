"""Whether what was taken away is noise alone, or looks like the edges of the image.

Blur takes from an edge its curvature: what a Gaussian of width b takes from a signal s is close to -b²/2 times its
Laplacian. So at edges (where the result rises by more than ``STEEP`` noise levels a pixel) what was removed is
correlated with the Laplacian of the result. Pure noise has 0 there, to within about 1 / sqrt(edge pixels / 10).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, gaussian_gradient_magnitude, gaussian_laplace

STEEP = 1.0
"""Noise levels per pixel: steeper than noise behind the Gaussian."""
LEAST_EDGE = 200
"""Pixels of edges below which nothing is said."""
OUTLIER = 3.0
"""Noise levels: what is removed beyond counts as so much, or a few pixels of metal would decide."""

Image = NDArray[np.floating[Any]]


def edge_correlation(before: Image, after: Image, level: float, usable: NDArray[np.bool_] | None = None) -> float:
    """Correlation of what was removed with the edges' curvature, at edges.

    Parameters
    ----------
    before, after : ndarray, shape (H, W)
    level : float
        Standard deviation of the noise in ``before``, in the same unit.
    usable : ndarray of bool, shape (H, W), optional
        False where pixels are padding or clipped; they and their neighbours take no part.

    Returns
    -------
    float
        About 0 for pure noise (up to 0.1 where some of it was left at edges, since the result's curvature holds that),
        positive where edges were flattened, negative where they were sharpened. NaN where there are no edges or no
        noise, or nothing was removed.
    """
    if not level > 0:
        return math.nan
    result = after.astype(np.float64) / level
    edges = gaussian_gradient_magnitude(result, 1.0) > STEEP
    if usable is not None:
        edges &= binary_erosion(usable, iterations=3)
    if np.count_nonzero(edges) < LEAST_EDGE:
        return math.nan
    removed = np.clip((before.astype(np.float64) - after)[edges] / level, -OUTLIER, OUTLIER)
    curvature = -gaussian_laplace(result, 1.0)[edges]
    curvature /= 1 + np.abs(curvature)  # faint edges have a say beside bone
    scale = math.sqrt(float((removed**2).mean() * (curvature**2).mean()))
    return float((removed * curvature).mean()) / scale if scale > 0 else math.nan
