"""K-hop rings: how much attention lies how many steps away on the grid of patches.

Specification: methods/vit-analytics.md, section 3.2. All of it follows from two histograms of offsets between query and
key (section 7): of the attention itself, and of the attention over the number of cells of the ring that it lies in.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

Metric = Literal["chebyshev", "manhattan", "euclid"]


def offsets(grid: tuple[int, int]) -> Tensor:
    """Rows and columns from a query to a key, [2 h - 1, 2 w - 1, 2] float64, as ``attention_sums`` counts them."""
    h, w = grid
    down, across = torch.arange(1 - h, h, dtype=torch.float64), torch.arange(1 - w, w, dtype=torch.float64)
    return torch.stack(torch.meshgrid(down, across, indexing="ij"), -1)


def ring_of(steps: Tensor, metric: Metric) -> Tensor:
    """The ring of offsets [..., 2]: max, sum, or rounded length of their rows and columns. [...] int64"""
    away = steps.abs()
    if metric == "chebyshev":
        return away.amax(-1).long()
    return (away.sum(-1) if metric == "manhattan" else steps.square().sum(-1).sqrt().round()).long()


@dataclass(frozen=True, slots=True)
class RingCells:
    """How the rings lie on a grid.

    Parameters
    ----------
    ring : Tensor of int64 [2 h - 1, 2 w - 1]
        Of each offset.
    cells : Tensor [N, K] float64
        How many cells of each ring around a patch are on the grid.
    queries : Tensor [K] float64
        Of how many patches the ring has any.
    """

    ring: Tensor
    cells: Tensor
    queries: Tensor

    @property
    def count(self) -> int:
        """K, rings 0 (the patch itself) to the farthest."""
        return len(self.queries)

    def weights(self, rows: Tensor, keys: Tensor, width: int) -> Tensor:
        """1 / (cells of the ring around the query that the key is in), [R, T], for flat numbers of patches."""
        h, w = (int(side + 1) // 2 for side in self.ring.shape)
        down = (
            torch.div(keys[None], width, rounding_mode="floor") - torch.div(rows, width, rounding_mode="floor")[:, None]
        )
        across = keys[None] % width - rows[:, None] % width
        return 1 / self.cells[rows].gather(1, self.ring[down + h - 1, across + w - 1])


@lru_cache(maxsize=8)
def ring_cells(grid: tuple[int, int], metric: Metric) -> RingCells:
    """The rings of a grid."""
    h, w = grid
    ring = ring_of(offsets(grid), metric)
    cells = torch.zeros(h * w, int(ring.max()) + 1, dtype=torch.float64)
    for patch in range(h * w):
        row, column = divmod(patch, w)
        seen = ring[h - 1 - row : 2 * h - 1 - row, w - 1 - column : 2 * w - 1 - column]
        cells[patch] = torch.bincount(seen.flatten(), minlength=cells.shape[1])
    return RingCells(ring, cells, (cells > 0).sum(0).double())


def by_ring(histogram: Tensor, rings: RingCells) -> Tensor:
    """Sums of a histogram of offsets [..., 2 h - 1, 2 w - 1] over each ring, [..., K]."""
    flat = histogram.flatten(-2)
    index = rings.ring.flatten().expand_as(flat)
    return flat.new_zeros(*flat.shape[:-1], rings.count).scatter_add_(-1, index, flat)
