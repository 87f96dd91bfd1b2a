"""A map to a mask, the mask to a box, the box to a magnified crop (methods/carve.md, sections 3.4 and 3.5)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from .settings import Fill, Rank, Regions

PixelBox = tuple[int, int, int, int]
"""(x0, y0, x1, y1), the last two behind the end."""
SMALL = 0.1 / 100
"""Share of the picture below which ``remove-small`` drops a region."""


def mask_of(
    values: NDArray[np.float64], share: float, count: int, *, rank: Rank = "attention", regions: Regions = "code"
) -> NDArray[np.bool_]:
    """The regions with the highest values.

    Parameters
    ----------
    values : ndarray, shape (H, W)
        NaN where the model saw nothing: never in the mask, and not counted.
    share : float
        Of the pixels that are above the threshold, p; with plateaus in the map, nearly.
    count : int
        K.
    rank : {"attention", "size", "remove-small"}
        Regions by the sum of their values, by their area; or all but the small ones.
    regions : {"code", "cap"}
        K or ``share`` of the regions, whichever are more, as in the code; or K at most, as in the paper.

    Returns
    -------
    ndarray of bool, shape (H, W)
    """
    above = values >= np.nanpercentile(values, (1 - share) * 100)
    labels, found = ndimage.label(above)  # the cross of four neighbours
    numbers = np.arange(1, found + 1)
    if rank == "remove-small":
        kept = numbers[ndimage.sum_labels(above, labels, numbers) >= int(values.size * SMALL)]
        return np.isin(labels, kept)
    weight = ndimage.sum_labels(values if rank == "attention" else above, labels, numbers)
    many = max(count, int(found * share)) if regions == "code" else count
    order = np.argsort(-weight, kind="stable")[:many]
    return np.isin(labels, numbers[order])


def box_of(mask: NDArray[np.bool_]) -> PixelBox:
    """Tight box around a mask; of an empty one the whole picture."""
    if not mask.any():
        return 0, 0, mask.shape[1], mask.shape[0]
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def masked(pixels: NDArray[np.float32], mask: NDArray[np.bool_], fill: Fill = "black") -> NDArray[np.float32]:
    """A picture [3, H, W] with what is outside of the mask blackened, or in the picture's mean colour."""
    outside = pixels.mean((1, 2), keepdims=True) if fill == "mean" else np.zeros((3, 1, 1), np.float32)
    return np.where(mask, pixels, outside).astype(np.float32)


def refined_size(box: PixelBox, size: tuple[int, int], most: float | None = None) -> tuple[int, int]:
    """(width, height) of the crop enlarged until it covers a picture of ``size`` (H, W); at most ``most`` times."""
    wide, high = box[2] - box[0], box[3] - box[1]
    scale = max(size[1] / wide, size[0] / high)
    if most is not None:
        scale = min(scale, most)
    return max(1, int(wide * scale)), max(1, int(high * scale))


def magnified(
    pixels: NDArray[np.float32], box: PixelBox, size: tuple[int, int], most: float | None = None
) -> NDArray[np.float32]:
    """The crop of a picture [3, H, W] in [0, 1], enlarged by Lanczos to cover ``size`` (H, W); 8 bit inside."""
    x0, y0, x1, y1 = box
    crop = np.moveaxis(pixels[:, y0:y1, x0:x1], 0, 2)
    picture = Image.fromarray(np.rint(np.clip(crop, 0, 1) * 255).astype(np.uint8))
    larger = picture.resize(refined_size(box, size, most), Image.Resampling.LANCZOS)
    return np.ascontiguousarray(np.moveaxis(np.asarray(larger, np.float32) / 255, 2, 0))
