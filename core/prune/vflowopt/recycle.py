"""Stage 1: the least important tokens leave, and those of each cell of the grid come back as one.

Specification: methods/vflowopt.md, sections 3.3 and 3.4.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LEAST_WEIGHT = 1e-12
"""Importance can be negative (alpha < 0); a weight in a mean cannot."""


@dataclass(frozen=True, slots=True)
class Recycled:
    """What is left of the tokens of one prompt.

    Parameters
    ----------
    keep : Tensor of int64 [k]
        Ascending.
    features : Tensor [k, D]
    candidates : Tensor of int64
        Tokens that left or were merged, ascending.
    cells : int
        That were hit: so many tokens came back.
    """

    keep: Tensor
    features: Tensor
    candidates: Tensor
    cells: int


def recycle(importance: Tensor, features: Tensor, cells: Tensor, retention: float, side: float) -> Recycled:
    """Section 3.3, steps 1 to 5.

    Parameters
    ----------
    importance : Tensor [n]
    features : Tensor [n, D]
    cells : Tensor of int64 [n]
        Of ``grid_cells``: one number for each cell.
    retention : float
        R1.
    side : float
        Of a cell, in tokens: a.
    """
    n = len(importance)
    budget = round(n * (1 - retention)) + int(n / side**2)
    if retention >= 1:  # nothing leaves, so nothing is to come back
        budget = 0
    order = torch.sort(importance, stable=True).indices
    candidates, kept = order[:budget], order[budget:]
    if not len(candidates):
        return Recycled(kept.sort().values, features[kept.sort().values], candidates, 0)
    group: Tensor = torch.unique(cells[candidates], return_inverse=True)[1]
    count = int(group.max()) + 1
    weight = importance[candidates].clamp(min=LEAST_WEIGHT).to(torch.promote_types(features.dtype, torch.float32))
    total = weight.new_zeros(count).index_add(0, group, weight)
    fused = weight.new_zeros(count, features.shape[1]).index_add(
        0, group, weight[:, None] * features[candidates].to(weight.dtype)
    )
    rank = torch.arange(len(candidates), device=cells.device)  # ascending importance
    best = candidates[rank.new_zeros(count).scatter_reduce(0, group, rank, "amax")]
    merged = features.clone()
    merged[best] = (fused / total[:, None]).to(features.dtype)
    keep = torch.cat([kept, best]).sort().values
    return Recycled(keep, merged[keep], candidates.sort().values, count)


def grid_cells(rows: Tensor, columns: Tensor, sheet: Tensor, side: float) -> Tensor:
    """The cell of each token: (floor(row / a), floor(column / a)) of its sheet.

    Parameters
    ----------
    rows, columns : Tensor of int64 [n]
        Of each token in its grid.
    sheet : Tensor of int64 [n]
        Which grid: the overview and the tiles have cells of their own.
    side : float
        a; need not be whole.

    Returns
    -------
    Tensor of int64 [n]
    """
    down, across = torch.floor(rows / side).long(), torch.floor(columns / side).long()
    return (sheet * (down.max() + 1) + down) * (across.max() + 1) + across


def most_important(importance: Tensor, retention: float) -> Tensor:
    """Stages 2 and 3: which tokens are left when round(n (1 - R)) of the least important ones leave, ascending [k]."""
    return without_least(importance, round(len(importance) * (1 - retention)))


def without_least(importance: Tensor, drop: int) -> Tensor:
    """Numbers of all but the ``drop`` least important tokens (the first of equal ones leaves first), ascending [k]."""
    return torch.sort(importance, stable=True).indices[drop:].sort().values
