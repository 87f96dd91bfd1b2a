"""Whether what an answer is seen in was kept (methods/prune-evaluation.md, section 4.3)."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...models.geometry import Geometry
from ..debias.padding import padded_tokens

OVERLAP = 0.25
"""A patch is evidence where one box covers more of it."""


def cells_of(geometry: Geometry) -> NDArray[np.float64]:
    """What each patch covers of the picture: left, top, right, bottom in its pixels, [N, 4], in the order of
    ``Geometry.patches``; beyond the picture's edges where it was padded."""
    cells = []
    for tile in geometry.tiles:
        (h, w), (top, left, bottom, right) = tile.grid, tile.box
        ys, xs = np.linspace(top, bottom, h + 1), np.linspace(left, right, w + 1)
        y, x = np.mgrid[:h, :w]
        cells.append(np.stack([xs[x], ys[y], xs[x + 1], ys[y + 1]], -1).reshape(-1, 4))
    return np.concatenate(cells)


def covered(cells: NDArray[np.float64], boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of each cell that the box covers which covers most of it, [N].

    Parameters
    ----------
    cells : ndarray [N, 4]
    boxes : ndarray [n, 4]
        Left, top, right, bottom.
    """
    low = np.maximum(cells[:, None, :2], boxes[None, :, :2])
    high = np.minimum(cells[:, None, 2:], boxes[None, :, 2:])
    area = (high - low).clip(0).prod(-1).max(1)  # [N]
    share: NDArray[np.float64] = area / (cells[:, 2:] - cells[:, :2]).prod(-1)
    return share


def evidence(geometry: Geometry, boxes: NDArray[np.float64]) -> Tensor:
    """Visual tokens more than ``OVERLAP`` of whose patch one box covers, [E] int64: what an answer is seen in.

    Parameters
    ----------
    geometry : Geometry
        Of the picture's visual tokens.
    boxes : ndarray [n, 4]
        In pixels of the picture's file.

    Notes
    -----
    Boxes smaller than a quarter of a patch may have no token at all: their recall is NaN.
    """
    share = torch.from_numpy(covered(cells_of(geometry), boxes))
    return geometry.patches()[share > OVERLAP]


def padding(geometry: Geometry) -> Tensor:
    """Share of each visual token that lies beyond the picture's edges, [count] float64; 0 for those without a place."""
    return padded_tokens([geometry], geometry.count)


def recall(kept: Tensor, wanted: Tensor) -> float:
    """Share of the tokens ``wanted`` that are among ``kept``; NaN where none is wanted."""
    return float(torch.isin(wanted, kept).double().mean()) if len(wanted) else math.nan


def padding_share(kept: Tensor, outside: Tensor) -> float:
    """Mean over the kept tokens of what of them lies beyond the picture's edges; NaN where nothing is kept.

    Parameters
    ----------
    kept : Tensor of int64 [k]
    outside : Tensor of float64 [n]
        See ``padding``.
    """
    return float(outside[kept].mean()) if len(kept) else math.nan
