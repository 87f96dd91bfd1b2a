"""Agreement of a result with a reference: PSNR, SSIM and RMSE, with pixel padding left out.

Specification: methods/filter2noise.md, section 6. PSNR = 10 log10(range² / MSE); SSIM is scikit-image's with a 7x7
uniform window, K1 = 0.01, K2 = 0.03 and sample covariance. A figure means something only together with its data range.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

SSIM_WINDOW = 7
"""Side of the SSIM window in pixels; images with a shorter side have no SSIM."""

Image = NDArray[Any]
Mask = NDArray[np.bool_]


def _check_shapes(image: Image, reference: Image, valid: Mask | None) -> None:
    """``ValueError`` unless both images and the mask fit each other."""
    if image.shape != reference.shape:
        raise ValueError(f"the image is {image.shape}, its reference {reference.shape}: both must have the same shape")
    if image.ndim not in (2, 3):
        raise ValueError(f"expected an image [H, W] or a stack [Z, H, W], got shape {image.shape}")
    if valid is not None and valid.shape != image.shape:
        raise ValueError(f"the image is {image.shape}, its mask of valid pixels {valid.shape}: both must be the same")


def _slices(
    image: Image, reference: Image, valid: Mask | None
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64], Mask | None]]:
    """Slice by slice in float64, with its mask: a stack needs no copy of itself."""
    shape = (-1, *image.shape[-2:])
    masks = None if valid is None else valid.reshape(shape)
    for z, (a, b) in enumerate(zip(image.reshape(shape), reference.reshape(shape), strict=True)):
        yield a.astype(np.float64), b.astype(np.float64), None if masks is None else masks[z]


def _check_range(data_range: float) -> None:
    if not (data_range > 0 and math.isfinite(data_range)):
        raise ValueError(f"data_range must be positive and finite, got {data_range}")


def rmse(image: Image, reference: Image, *, valid: Mask | None = None) -> float:
    """Root of the mean squared difference.

    Parameters
    ----------
    image, reference : ndarray, shape (H, W) or (Z, H, W), any real dtype
        In the same unit; computed in float64.
    valid : ndarray of bool, same shape, optional
        False marks pixel padding, which takes no part.

    Returns
    -------
    float, in the images' unit. NaN where no pixel is valid.

    Raises
    ------
    ValueError
        If the shapes differ or are not those of an image or a stack.
    """
    _check_shapes(image, reference, valid)
    total, count = 0.0, 0
    for a, b, mask in _slices(image, reference, valid) if image.size else ():
        squared = (a - b) ** 2 if mask is None else (a[mask] - b[mask]) ** 2
        total, count = total + float(squared.sum()), count + squared.size
    return math.sqrt(total / count) if count else math.nan


def psnr(image: Image, reference: Image, *, data_range: float = 1.0, valid: Mask | None = None) -> float:
    """Peak signal-to-noise ratio in dB; a stack is pooled over all its pixels.

    Parameters
    ----------
    image, reference, valid
        As for `rmse`.
    data_range : float
        The peak, in the images' unit: 1 for images in [0, 1], the window's width for HU.

    Returns
    -------
    float, in dB. Infinite for equal images, NaN where no pixel is valid.

    Raises
    ------
    ValueError
        If the shapes do not fit, or ``data_range`` is not positive and finite.

    References
    ----------
    methods/filter2noise.md, section 6.
    """
    _check_range(data_range)
    error = rmse(image, reference, valid=valid)
    if error == 0:
        return math.inf
    return 20 * math.log10(data_range / error) if math.isfinite(error) else math.nan


def ssim(image: Image, reference: Image, *, data_range: float = 1.0, valid: Mask | None = None) -> float:
    """Mean structural similarity over all windows that lie inside the image and hold no padding.

    Parameters
    ----------
    image, reference, valid, data_range
        As for `psnr`. A stack is scored slice by slice; every window counts the same.

    Returns
    -------
    float, at most 1. NaN where there is no such window: a side below 7 pixels, or everything close to padding.

    Raises
    ------
    ValueError
        If the shapes do not fit, or ``data_range`` is not positive and finite.

    References
    ----------
    methods/filter2noise.md, section 6; Wang et al. 2004, doi:10.1109/TIP.2003.819861.
    """
    from scipy.ndimage import minimum_filter
    from skimage.metrics import structural_similarity

    _check_range(data_range)
    _check_shapes(image, reference, valid)
    if min(image.shape[-2:]) < SSIM_WINDOW or not image.size:
        return math.nan
    border = SSIM_WINDOW // 2
    inside = (slice(border, -border), slice(border, -border))
    total, count = 0.0, 0
    for x, y, mask in _slices(image, reference, valid):
        _, full = structural_similarity(  # type: ignore[no-untyped-call]
            y, x, data_range=data_range, win_size=SSIM_WINDOW, full=True
        )
        score = full[inside]
        if mask is not None:
            score = score[minimum_filter(mask, size=SSIM_WINDOW)[inside]]  # a window with any padding does not count
        total, count = total + float(score.sum()), count + score.size
    return total / count if count else math.nan
