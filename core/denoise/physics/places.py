"""Where an image is uniform, so that what varies there is noise.

A user may name it. Of a phantom the truth says it. Else the image itself, by the noise model of the method adaptive
(methods/adaptive-denoise.md, section 2 B): flat is where a smoothed copy rises by less than 0.15 noise levels a pixel.
Anatomy finer than that counts as noise, before and after. Air (of images in HU) is left out: noise there says little
of noise in tissue, and scanners clip it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter, minimum_filter, uniform_filter

from ...io.image import GreyImage
from ..adaptive.noise_model import estimate
from ..adaptive.padding import filled
from ..base import Box
from ..window import Window, see
from .noise_power import ENOUGH, SIDES, Squares, squares_in, uniform_squares

AIR = -950.0
"""HU: what is darker on the average is no tissue, not even lung."""
EVEN = 1.0
"""HU between the darkest and the brightest pixel of a truth's neighbourhood below which there is nothing to see."""
FEW = 4
"""Pixels of a slice."""
MOST_SLICES = 5
"""Of a stack, evenly spread: more would only repeat what these say."""

Truth = NDArray[np.floating[Any]]


def even(truth: Truth, reach: int) -> NDArray[np.bool_]:
    """[..., H, W] where a truth in HU has one value as far as ``reach`` pixels around, inside the image and not air."""
    size = (*(1,) * (truth.ndim - 2), 2 * reach + 1, 2 * reach + 1)
    highest = maximum_filter(truth, size, mode="constant", cval=np.inf)
    return np.asarray((highest - minimum_filter(truth, size) < EVEN) & (truth > AIR))


def slices_measured(count: int) -> list[int]:
    """Which slices of a stack are measured: the middle of each of ``MOST_SLICES`` equal parts, or all."""
    parts = min(count, MOST_SLICES)
    return [(2 * part + 1) * count // (2 * parts) for part in range(parts)]


def usable(image: GreyImage, window: Window, z: int) -> NDArray[np.bool_]:
    """[H, W] where pixels of a slice are no padding, and inside the window, so that they are filtered, not clipped.

    An automatic window ends at the image's own extremes; an end that only a few pixels reach clips none.
    """
    inside = np.ones(image.pixels[z].shape, bool) if image.valid is None else image.valid[z].copy()
    for beyond in (image.pixels[z] <= window.low, image.pixels[z] >= window.high):
        if np.count_nonzero(beyond & inside) > FEW:
            inside &= ~beyond
    return inside


def uniform_places(image: GreyImage, window: Window, rois: Sequence[Box], truth: Truth | None) -> tuple[Squares, str]:
    """The squares to measure noise in, and who says that they are uniform: ``"user"``, ``"truth"`` or ``"image"``.

    Parameters
    ----------
    image : GreyImage
        The noisy image.
    window : Window
        Not empty; what is outside, or at its ends, is not measured.
    rois : sequence of Box
        What the user says is uniform; none: it is looked for.
    truth : ndarray, shape (Z, H, W), optional
        Of a phantom, in HU.

    Raises
    ------
    ValueError
        If there is no such place, or one that is named cannot be measured; the text says why.
    """
    slices = slices_measured(len(image.pixels))
    masks = np.stack([usable(image, window, z) for z in slices])
    if rois:
        return _named(masks, slices, rois), "user"
    pixels = image.pixels[slices]
    if truth is not None:
        known = masks & even(truth[slices], 1)
        squares = uniform_squares(known, known, np.full(pixels.shape, np.inf), pixels)
        if squares is not None:
            return squares.of(slices), "truth"
    flat, level = np.empty_like(masks), np.empty_like(pixels)
    for k, z in enumerate(slices):
        valid = None if image.valid is None else image.valid[z]
        model = estimate(filled(see(pixels[k], window, valid), valid), valid, aspect=image.aspect)
        flat[k], level[k] = model.flat, model.level * window.width
        if image.unit == "HU":
            flat[k] &= uniform_filter(pixels[k], 9) > AIR
    squares = uniform_squares(flat, masks, level, pixels)
    if squares is None:
        side = SIDES[-1]
        raise ValueError(f"no uniform region large enough: {ENOUGH} of {side} x {side} pixels are needed")
    return squares.of(slices), "image"


def _named(masks: NDArray[np.bool_], slices: list[int], rois: Sequence[Box]) -> Squares:
    height, width = masks.shape[1:]
    for roi in rois:
        if roi.x1 > width or roi.y1 > height:
            raise ValueError(f"the region {roi} is not inside the image of {width} x {height} pixels")
        if not masks[:, roi.y0 : roi.y1, roi.x0 : roi.x1].all():
            raise ValueError(f"the region {roi} has padding, or pixels that are clipped by the window")
    return squares_in([(roi.x0, roi.y0, roi.x1, roi.y1) for roi in rois], len(slices)).of(slices)
