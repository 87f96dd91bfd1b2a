"""Agreement of a result with a reference: PSNR, SSIM and RMSE, with pixel padding left out.

Specification: methods/filter2noise.md, section 6. PSNR = 10 log10(range² / MSE); SSIM is scikit-image's with a 7x7
uniform window, K1 = 0.01, K2 = 0.03 and sample covariance. A figure means something only together with its data range.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

SSIM_WINDOW = 7
"""Side of the SSIM window in pixels; images with a shorter side have no SSIM."""

Image = NDArray[Any]
Mask = NDArray[np.bool_]


def _checked(image: Image, reference: Image, valid: Mask | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both images in float64, once they and the mask have proved to fit each other."""
    if image.shape != reference.shape:
        raise ValueError(f"the image is {image.shape}, its reference {reference.shape}: both must have the same shape")
    if image.ndim not in (2, 3):
        raise ValueError(f"expected an image [H, W] or a stack [Z, H, W], got shape {image.shape}")
    if valid is not None and valid.shape != image.shape:
        raise ValueError(f"the image is {image.shape}, its mask of valid pixels {valid.shape}: both must be the same")
    return image.astype(np.float64), reference.astype(np.float64)


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
    a, b = _checked(image, reference, valid)
    squared = (a - b) ** 2 if valid is None else (a[valid] - b[valid]) ** 2
    return math.sqrt(squared.mean()) if squared.size else math.nan


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
    a, b = _checked(image, reference, valid)
    if min(a.shape[-2:]) < SSIM_WINDOW or not a.size:
        return math.nan
    border = SSIM_WINDOW // 2
    inside = (slice(border, -border), slice(border, -border))
    a, b = a.reshape(-1, *a.shape[-2:]), b.reshape(-1, *b.shape[-2:])  # [Z, H, W]
    masks = None if valid is None else valid.reshape(a.shape)
    scores: list[NDArray[np.float64]] = []
    for index, (x, y) in enumerate(zip(a, b, strict=True)):
        _, full = structural_similarity(  # type: ignore[no-untyped-call]
            y, x, data_range=data_range, win_size=SSIM_WINDOW, full=True
        )
        score = full[inside]
        if masks is None:
            scores.append(score.ravel())
        else:
            whole = minimum_filter(masks[index], size=SSIM_WINDOW)[inside]  # a window with any padding does not count
            scores.append(score[whole])
    kept = np.concatenate(scores)
    return float(kept.mean()) if kept.size else math.nan
