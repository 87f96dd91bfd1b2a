"""Patch bilateral filters with a given range width for every pixel.

Specification: methods/adaptive-denoise.md, sections 2 A and 6. The kernels are in ``bilateral_cpu``; ``reference`` and
``accumulate_reference`` say the same as plainly as can be, in any dtype, for the tests.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bilateral_cpu import between, within

Array = NDArray[Any]
Plane = NDArray[np.float32]

_LEAST = 1e-6
"""Range widths are taken as this at least."""
_LOG2_E = math.log2(math.e)


def spatial_weights(radius: int, sigma: float | tuple[float, float]) -> Array:
    """exp(-dy^2 / (2 sigma_y^2) - dx^2 / (2 sigma_x^2)), [2 radius + 1, 2 radius + 1]; ``sigma`` in pixels.

    One width for both, or those along a column and along a row: pixels need not be square. Infinite: a flat window.
    """
    offsets = np.arange(-radius, radius + 1)
    along = [np.exp(-((offsets / s) ** 2) / 2) for s in (sigma if isinstance(sigma, tuple) else (sigma, sigma))]
    return np.asarray(along[0][:, None] * along[1])


def patch_bilateral(
    image: Array, guide: Array, range_sigma: Any, *, spatial_sigma: float | tuple[float, float] = math.inf,
    radius: int = 6, patch: int = 2, bias: float = 0.0,
) -> Plane:  # fmt: skip
    """Weighted mean of a window around every pixel, [H, W]: ``patch_bilaterals`` with one range width."""
    planes = patch_bilaterals(
        image, guide, range_sigma, (1.0,), spatial_sigma=spatial_sigma, radius=radius, patch=patch, bias=bias
    )
    return planes.reshape(image.shape)


def patch_bilaterals(
    image: Array, guide: Array, range_sigma: Any, factors: Sequence[float], *,
    spatial_sigma: float | tuple[float, float] = math.inf, radius: int = 6, patch: int = 2, bias: float = 0.0,
) -> Plane:  # fmt: skip
    """Weighted means of a window around every pixel, one for each of several range widths.

    w(i, j) = exp(-max(D - bias, 0)) s(i - j), w(i, i) = 1, with s of ``spatial_weights`` and
    D = mean over the patch of (guide(i + q) - guide(j + q))^2 / (2 (factor range_sigma(i))^2).

    Parameters
    ----------
    image, guide : ndarray, shape (H, W)
        Taken as float32. Mirrored at their sides, again and again where they are smaller than the window.
    range_sigma : float or ndarray, shape (H, W)
        In units of the guide, 1e-6 at least.
    factors : sequence of float
        On ``range_sigma``. Two filters at once cost two thirds of two filters apart.
    spatial_sigma : float or tuple of float
        Pixels; a pair for columns and rows; infinite for a flat window.
    radius, patch : int
        The window has 2 radius + 1 pixels a side, a patch 2 patch + 1; ``patch`` >= 1.
    bias : float
        What of D passes freely: 1 is the share of two independent noisy patches at a range width of one noise level.

    Returns
    -------
    ndarray, shape (K, H, W), float32
        The same bits on any number of threads.
    """
    return within(
        _padded(image, radius + patch), _padded(guide, radius + patch), _scale(range_sigma, image.shape),
        spatial_weights(radius, spatial_sigma).astype(np.float32), _shares(factors, patch), bias * _LOG2_E, patch,
    )  # fmt: skip


def accumulate(
    out: Plane, total: Plane, image: Array, here: Array, there: Array, sigma: Any, factors: Sequence[float],
    low_here: Array, low_there: Array, low_sigma: Any, *, bias: float, low_bias: float, radius: int, patch: int,
    weight: float = 1.0, own: bool = False,
) -> None:  # fmt: skip
    """Add another slice's pixels to the sums of filters that differ in their range width alone; section 6, step 2.

    w(i, j) = weight exp(-max(D - bias, 0) - max(T - low_bias, 0)); D and T are squared differences over twice a
    variance: D of the guides ``here`` (patch around i) and ``there`` (patch around j), its mean over the patch, over
    2 (factor sigma(i))^2; T of the smoothed slices at i and j, over 2 low_sigma(i)^2.

    Parameters
    ----------
    out, total : ndarray, shape (K, H, W), float32, C-contiguous
        Sums of w x and of w, a plane for each of ``factors``; added to in place.
    image, here, there, low_here, low_there : ndarray, shape (H, W)
        The pixels to be taken; guides; slices behind the Gaussian of the lesion guard. Taken as float32.
    sigma, low_sigma : float or ndarray, shape (H, W)
        1e-6 at least.
    weight : float
        In (0, 1].
    own : bool
        ``image`` is the slice itself: the pixel itself is left out (the sums hold it already).
    """
    planes = [_padded(a, radius + patch) for a in (image, here, there, low_here, low_there)]
    between(
        planes[0], planes[1], planes[2], _scale(sigma, image.shape), _shares(factors, patch),
        np.float32(bias * _LOG2_E), planes[3], planes[4], _scale(low_sigma, image.shape),
        np.float32(low_bias * _LOG2_E), np.float32(math.log2(weight)), radius, patch, own, out, total,
    )  # fmt: skip


def reference(
    image: Array, guide: Array, range_sigma: Any, factors: Sequence[float], *,
    spatial_sigma: float | tuple[float, float] = math.inf, radius: int = 6, patch: int = 2, bias: float = 0.0,
) -> Array:  # fmt: skip
    """``patch_bilaterals``, one offset after the other, in the dtype of ``image``."""
    spatial, pixels = spatial_weights(radius, spatial_sigma), _Shifted(image, radius)
    out, total = np.stack([image] * len(factors)), np.ones((len(factors), *image.shape), image.dtype)
    for dy, dx, distance in _distances(guide, guide, radius, patch):
        for k, factor in enumerate(factors):
            d = distance / (2 * (factor * np.maximum(range_sigma, _LEAST)) ** 2)
            w = np.exp(-np.maximum(d - bias, 0)) * spatial[dy + radius, dx + radius]
            if dy or dx:
                out[k] += w * pixels(dy, dx)
                total[k] += w
    return np.asarray(out / total)


def accumulate_reference(
    out: Array, total: Array, image: Array, here: Array, there: Array, sigma: Any, factors: Sequence[float],
    low_here: Array, low_there: Array, low_sigma: Any, *, bias: float, low_bias: float, radius: int, patch: int,
    weight: float = 1.0, own: bool = False,
) -> None:  # fmt: skip
    """``accumulate``, one offset after the other, in the dtype of ``image``."""
    pixels, low = _Shifted(image, radius), _Shifted(low_there, radius)
    for dy, dx, distance in _distances(here, there, radius, patch):
        t = (low_here - low(dy, dx)) ** 2 / (2 * np.maximum(low_sigma, _LEAST) ** 2)
        for k, factor in enumerate(factors):
            d = distance / (2 * (factor * np.maximum(sigma, _LEAST)) ** 2)
            w = weight * np.exp(-np.maximum(d - bias, 0) - np.maximum(t - low_bias, 0))
            if dy or dx or not own:
                out[k] += w * pixels(dy, dx)
                total[k] += w


class _Shifted:
    """An image [H, W] that is mirrored at its sides: called with (dy, dx), its pixels at i + (dy, dx) for every i."""

    def __init__(self, image: Array, border: int) -> None:
        self.shape, self.border, self.wide = image.shape, border, np.pad(image, border, mode="reflect")

    def __call__(self, dy: int, dx: int) -> Array:
        return self.wide[self.border + dy :, self.border + dx :][: self.shape[0], : self.shape[1]]


def _distances(here: Array, there: Array, radius: int, patch: int) -> Iterator[tuple[int, int, Array]]:
    """(dy, dx, mean over the patch of (here(i + q) - there(i + q + (dy, dx)))^2 [H, W]) for every offset."""
    a, b = _Shifted(here, radius + patch), _Shifted(there, radius + patch)
    around = list(itertools.product(range(-patch, patch + 1), repeat=2))
    for dy, dx in itertools.product(range(-radius, radius + 1), repeat=2):
        yield dy, dx, np.mean([(a(y, x) - b(dy + y, dx + x)) ** 2 for y, x in around], axis=0)


def _padded(image: Array, border: int) -> Plane:
    """Mirrored on all sides by ``border`` pixels, again and again where it has fewer; a single pixel is repeated."""
    return np.ascontiguousarray(np.pad(np.asarray(image, np.float32), border, mode="reflect"))


def _scale(sigma: Any, shape: tuple[int, ...]) -> Plane:
    """1 / (2 sigma^2) for every pixel, for exponents to base 2."""
    width = np.maximum(np.asarray(sigma, np.float32), np.float32(_LEAST))
    return np.array(np.broadcast_to(np.float32(_LOG2_E / 2) / (width * width), shape), order="C")


def _shares(factors: Sequence[float], patch: int) -> Plane:
    """What ``_scale`` is multiplied by: sums over the patch become means, range widths are multiplied by a factor."""
    return np.array([1 / ((2 * patch + 1) * factor) ** 2 for factor in factors], np.float32)
