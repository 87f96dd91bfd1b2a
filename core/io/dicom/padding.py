"""Which pixels of a DICOM image are padding: outside the scanner's field of view, whether the file says so or not."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_NO_AIR = -1100.0
"""HU below which a flat region cannot be measured air (-1000, noise and undershoot included)."""


def valid_pixels(
    dataset: Any, stored: NDArray[Any], hu: NDArray[np.floating[Any]] | None, lossy: bool, notes: list[str]
) -> NDArray[np.bool_] | None:
    """False where pixels are padding [Z, H, W]; None where all are valid."""
    valid = np.ones(stored.shape, bool)
    first, last = (_padding(dataset, stored, word) for word in ("PixelPaddingValue", "PixelPaddingRangeLimit"))
    if first is not None:
        low, high = sorted((first, first if last is None else last))
        valid &= (stored < low) | (stored > high)
    if hu is not None:
        for z in range(len(hu)):
            if (outside := _outside(hu[z], lossy)) is not None and (valid[z] & outside).any():
                valid[z] &= ~outside
                notes.append("pixels outside the scanner's field of view are not marked, but recognised and kept")
    if valid.all():
        return None
    if not valid.any():
        notes.append("every pixel equals the padding value, which is therefore ignored")
        return None
    return valid


def _padding(dataset: Any, stored: NDArray[Any], keyword: str) -> int | None:
    """A padding value as a stored value; written with the wrong signedness it is turned into the right one."""
    try:
        value = int(dataset[keyword].value)
    except (KeyError, TypeError, ValueError):
        return None
    if stored.dtype.kind not in "iu":
        return None
    info, span = np.iinfo(stored.dtype), 1 << 8 * stored.dtype.itemsize
    return value - span if value > info.max else value + span if value < info.min else value


def _outside(hu: NDArray[np.floating[Any]], lossy: bool) -> NDArray[np.bool_] | None:
    """The flat region [H, W] below -1100 HU that reaches a corner, or None.

    Flat means: at the image's least value. After a lossy coding nothing is flat; there it means: nearer to the corner's
    value than to -1024.
    """
    corners = ([0, 0, -1, -1], [0, -1, 0, -1])
    level = float(hu[corners].min())
    if level >= _NO_AIR:
        return None
    flat = hu < (level - 1024.0) / 2 if lossy else hu == hu.min()
    if not flat[corners].any():
        return None
    from scipy import ndimage

    labels, _ = ndimage.label(flat)
    region = flat & np.isin(labels, np.unique(labels[corners][flat[corners]]))
    return region if region.sum() >= 16 else None  # a few dark pixels are no field of view
