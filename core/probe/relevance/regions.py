"""The heat map of relevance, and the regions that stand out in its saliency.

Specification: methods/salient-relevance.md, sections 3.2 (step 4) and 3.4 (step 10).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import find_objects, label
from torch import Tensor

from .saliency import to_unit

THRESHOLD = 0.5


@dataclass(frozen=True, slots=True)
class SalientRegion:
    """A connected part of the map.

    Parameters
    ----------
    box : tuple of 4 int
        x0, y0, x1, y1 in cells of the map.
    area : float
        Share of the map.
    saliency : float
        Sum of its saliency, as a share of all.
    relevance : float
        Share of the absolute relevance that lies in it.
    """

    box: tuple[int, int, int, int]
    area: float
    saliency: float
    relevance: float


def heat_map(relevance: Tensor) -> NDArray[np.uint8]:
    """Relevance [C, h, w] as a picture [h, w, C]: absolute, from the lowest to the highest value of all channels
    together; truncated, not rounded, as the official code does it."""
    return (to_unit(relevance.abs()) * 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()


def regions_of(saliency: NDArray[np.floating], relevance: NDArray[np.floating]) -> list[SalientRegion]:
    """Connected parts (8 neighbours) where the saliency is above ``THRESHOLD``, the most salient first.

    Parameters
    ----------
    saliency : ndarray, shape (h, w), in [0, 1]
    relevance : ndarray, shape (h, w)
        Absolute.
    """
    numbers, _ = label(saliency > THRESHOLD, np.ones((3, 3)))
    total, weight = float(saliency.sum()), float(relevance.sum())
    regions = []
    for number, place in enumerate(find_objects(numbers), 1):
        inside = numbers == number
        rows, columns = place
        regions.append(
            SalientRegion(
                (columns.start, rows.start, columns.stop, rows.stop), float(inside.mean()),
                float(saliency[inside].sum()) / total, float(relevance[inside].sum()) / weight if weight else 0.0,
            )
        )  # fmt: skip
    return sorted(regions, key=lambda region: -region.saliency)
