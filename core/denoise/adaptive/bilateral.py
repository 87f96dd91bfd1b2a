"""Patch bilateral filters with a given range width for every pixel.

Specification: methods/adaptive-denoise.md, sections 2 A and 6. One pass per offset of the window: squared differences
of the guide, summed over the patch by a running column sum and shifted additions, one exponential, two accumulations;
nothing of the size window x image is ever stored.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ...jit import FASTMATH, exp_negative, kernel

Plane = NDArray[np.float32]
_ZERO = np.float32(0)


@njit(fastmath=FASTMATH, error_model="numpy")
def _patch_sums(here: Plane, there: Plane, dy: int, dx: int, radius: int, patch: int, row: int, column: Any, ring: Any,
                d: Any, width: int) -> None:  # fmt: skip
    """Take in ``row`` of the squared differences; ``d`` [W] becomes the sums over the patches whose last row it is."""
    side, wide = 2 * patch + 1, width + 2 * patch
    a = here[row + radius, radius : radius + wide]
    b = there[row + radius + dy, radius + dx : radius + dx + wide]
    oldest = ring[row % side]
    for x in range(wide):
        t = a[x] - b[x]
        t = t * t
        column[x] += t - oldest[x]
        oldest[x] = t
    for x in range(width):
        d[x] = column[x]
    for k in range(1, side):
        for x in range(width):
            d[x] += column[x + k]


@kernel("void(float32[:,::1],float32[:,::1],float32[:,::1],float32,float32[:,::1],int64,float32[:,::1],float32[:,::1])")
def _within(
    image: Plane, guide: Plane, scale: Plane, bias: Any, spatial: Plane, patch: int, out: Plane, total: Plane
) -> None:
    """Add the window around every pixel to ``out`` (sum of w x) and ``total`` (sum of w), [H, W]; inputs are padded."""
    height, width = out.shape
    radius = spatial.shape[0] // 2
    border, side = radius + patch, 2 * patch + 1
    column, d = np.empty(width + 2 * patch, np.float32), np.empty(width, np.float32)
    ring = np.empty((side, width + 2 * patch), np.float32)
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            s = spatial[dy + radius, dx + radius]
            if s <= -20 or (dy == 0 and dx == 0):
                continue
            column[:] = _ZERO
            ring[:, :] = _ZERO
            for row in range(height + 2 * patch):
                _patch_sums(guide, guide, dy, dx, radius, patch, row, column, ring, d, width)
                y = row - 2 * patch
                if y < 0:
                    continue
                n = image[y + border + dy, border + dx : border + dx + width]
                o, t, c = out[y], total[y], scale[y]
                for x in range(width):
                    w = exp_negative(s - max(d[x] * c[x] - bias, _ZERO))
                    o[x] += w * n[x]
                    t[x] += w


@kernel(
    "void(float32[:,::1],float32[:,::1],float32[:,::1],float32[:,::1],float32,float32[:,::1],float32[:,::1],"
    "float32[:,::1],float32,float32,int64,int64,boolean,float32[:,::1],float32[:,::1])"
)
def _between(
    image: Plane, here: Plane, there: Plane, scale: Plane, bias: Any, low_here: Plane, low_there: Plane,
    low_scale: Plane, low_bias: Any, log_weight: Any, radius: int, patch: int, own: bool, out: Plane, total: Plane,
) -> None:  # fmt: skip
    """Add another slice's window (or one's own) to ``out`` and ``total``, tested by the smoothed slices too."""
    height, width = out.shape
    border, side = radius + patch, 2 * patch + 1
    column, d = np.empty(width + 2 * patch, np.float32), np.empty(width, np.float32)
    ring = np.empty((side, width + 2 * patch), np.float32)
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            if own and dy == 0 and dx == 0:
                continue
            column[:] = _ZERO
            ring[:, :] = _ZERO
            for row in range(height + 2 * patch):
                _patch_sums(here, there, dy, dx, radius, patch, row, column, ring, d, width)
                y = row - 2 * patch
                if y < 0:
                    continue
                n = image[y + border + dy, border + dx : border + dx + width]
                p = low_here[y + border, border : border + width]
                q = low_there[y + border + dy, border + dx : border + dx + width]
                o, s, c, r = out[y], total[y], scale[y], low_scale[y]
                for x in range(width):
                    t = p[x] - q[x]
                    w = exp_negative(log_weight - max(d[x] * c[x] - bias, _ZERO) - max(t * t * r[x] - low_bias, _ZERO))
                    o[x] += w * n[x]
                    s[x] += w


def _padded(image: NDArray[Any], border: int) -> Plane:
    """Mirrored on all sides by ``border`` pixels."""
    return np.ascontiguousarray(np.pad(image, border, mode="reflect"), np.float32)


def _over(sigma: Any, count: int, shape: tuple[int, ...]) -> Plane:
    """1 / (2 count sigma^2) for every pixel."""
    return np.array(np.broadcast_to(1 / (count * 2 * np.maximum(sigma, 1e-6) ** 2), shape), np.float32, order="C")


def patch_bilateral(
    image: NDArray[Any], guide: NDArray[Any], range_sigma: Any, *, spatial_sigma: float = math.inf, radius: int = 6,
    patch: int = 2, bias: float = 0.0,
) -> Plane:  # fmt: skip
    """Weighted mean of a window around every pixel.

    w(i, j) = exp(-max(D - bias, 0) - |i - j|^2 / (2 spatial_sigma^2)), w(i, i) = 1, with
    D = mean over the patch of (guide(i + q) - guide(j + q))^2 / (2 range_sigma(i)^2).

    Parameters
    ----------
    image, guide : ndarray, shape (H, W), float32
    range_sigma : float or ndarray, shape (H, W)
        In units of the guide.
    spatial_sigma : float
        Pixels; infinite for a flat window.
    radius, patch : int
        The window has 2 radius + 1 pixels a side, a patch 2 patch + 1.
    bias : float
        What of D passes freely: 1 is the share of two independent noisy patches at a range width of one noise level.

    Returns
    -------
    ndarray, shape (H, W), float32
    """
    o = np.arange(-radius, radius + 1)
    spatial = (-(o[:, None] ** 2 + o[None] ** 2) / (2 * min(spatial_sigma, 1e6) ** 2)).astype(np.float32)
    out, total = np.array(image, np.float32), np.ones(image.shape, np.float32)
    wide, scale = (
        (_padded(a, radius + patch) for a in (image, guide)),
        _over(range_sigma, (2 * patch + 1) ** 2, out.shape),
    )
    _within()(*wide, scale, np.float32(bias), spatial, patch, out, total)
    return np.asarray(out / total)


def accumulate(
    out: Plane, total: Plane, image: Plane, here: Plane, there: Plane, sigma: Any, low_here: Plane, low_there: Plane,
    low_sigma: Any, *, bias: float, low_bias: float, radius: int, patch: int, weight: float = 1.0, own: bool = False,
) -> None:  # fmt: skip
    """Add another slice's pixels to the sums of a filter; section 6, step 2.

    w(i, j) = weight exp(-max(D - bias, 0) - max(T - low_bias, 0)); D and T are squared differences over 2 sigma(i)^2:
    D of the guides ``here`` (patch around i) and ``there`` (patch around j), its mean over the patch; T of the smoothed
    slices at i and j.

    Parameters
    ----------
    out, total : ndarray, shape (H, W), float32
        Sums of w x and of w; added to in place.
    image, here, there, low_here, low_there : ndarray, shape (H, W), float32
        The pixels to be taken; guides; slices behind the Gaussian of the lesion guard.
    sigma, low_sigma : float or ndarray, shape (H, W)
    own : bool
        ``image`` is the slice itself: the pixel itself is left out (the sums hold it already).
    """
    border, area = radius + patch, (2 * patch + 1) ** 2
    planes = [_padded(a, border) for a in (image, here, there, low_here, low_there)]
    _between()(
        planes[0], planes[1], planes[2], _over(sigma, area, out.shape), np.float32(bias), planes[3], planes[4],
        _over(low_sigma, 1, out.shape), np.float32(low_bias), np.float32(math.log(weight)), radius, patch, own,
        out, total,
    )  # fmt: skip
