"""How well a mask finds what a question is about, beside plain attention and a box in the middle.

Source: methods/carve.md, section 6, offline target; methods/prune-evaluation.md, section 4.3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...models.pictures import ColourPicture
from ..sheets import smooth_on_pixels
from .maps import fused
from .mask import mask_of
from .method import Carved
from .settings import CarveSettings


@dataclass(frozen=True, slots=True)
class MaskFit:
    """How a mask lies on what was to be found.

    Parameters
    ----------
    recall : float
        Share of the object's pixels inside the mask.
    precision : float
        Share of the mask inside the object's boxes; NaN for an empty mask.
    """

    recall: float
    precision: float


def found(mask: NDArray[np.bool_], boxes: NDArray[np.float64]) -> MaskFit:
    """How a mask [h, w] lies on boxes (left, top, right, bottom) [n, 4] in its pixels; an object fills its box."""
    wanted = np.zeros(mask.shape, bool)
    for left, top, right, bottom in np.rint(boxes).astype(int):
        wanted[max(top, 0) : bottom, max(left, 0) : right] = True
    both = int((mask & wanted).sum())
    return MaskFit(both / max(1, int(wanted.sum())), both / mask.sum() if mask.any() else math.nan)


def rival_masks(settings: CarveSettings, done: Carved, picture: ColourPicture) -> dict[str, NDArray[np.bool_]]:
    """The mask of CARVE, and two that need no contrast, [h, w] each.

    Returns
    -------
    dict of str to ndarray
        ``carve``, empty where there was no contrast; ``attention``: by the same rule from the attention for the
        question alone; ``centre``: a box in the middle of the picture's shape, as large as the mask of CARVE, or as
        ``settings.share`` where that is empty.
    """
    height, width = picture.pixels.shape[1:]
    plain = fused(done.look.attention[: done.steps, done.layers], settings.steps)
    values = smooth_on_pixels(done.look.prepared.pictures[0], plain, (height, width))
    carve = done.mask if done.mask is not None else np.zeros((height, width), bool)
    side = math.sqrt(carve.mean() if carve.any() else settings.share)
    centre = np.zeros((height, width), bool)
    rows, columns = round(height * side), round(width * side)
    top, left = (height - rows) // 2, (width - columns) // 2
    centre[top : top + rows, left : left + columns] = True
    attention = mask_of(values, settings.share, settings.regions, rank=settings.rank, regions=settings.count)
    return {"carve": carve, "attention": attention, "centre": centre}
