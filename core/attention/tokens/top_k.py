"""The k largest scores of every row, exactly: what both indexers end in. Equal scores: the smaller position wins.

Specification: methods/hisa.md, sections 3.2, 3.3 (step 7) and 9 (4b, 5).

A score that is NaN counts as infinity, here and in every kernel that selects (``top_k_cpu.ranked``): what cannot be
compared is chosen, so that attention shows it, and is never dropped without a word.
"""

from __future__ import annotations

import torch
from torch import Tensor


def ranked(scores: Tensor) -> Tensor:
    """Scores as selection compares them: NaN as infinity."""
    return scores.masked_fill(scores.isnan(), torch.inf)


def largest(scores: Tensor, count: int) -> Tensor:
    """Positions of the ``count`` largest along the last axis, best first; among equals the smaller position. int64."""
    return ranked(scores).sort(dim=-1, descending=True, stable=True).indices[..., :count]


def top_k_positions(scores: Tensor, top_k: int) -> Tensor:
    """Positions of each row's largest entries, ascending; -1, at the end, for want of visible ones.

    Parameters
    ----------
    scores : Tensor [..., n]
        -inf marks what a row may not choose; any other value, zero and negative ones too, may be chosen. NaN counts
        as infinity.
    top_k : int

    Returns
    -------
    Tensor int32 [..., min(top_k, n)]. Among equal scores at the cut the smaller positions are chosen, so that the same
    scores always give the same set (``torch.topk`` promises no order).
    """
    n = scores.shape[-1]
    values, order = ranked(scores).sort(dim=-1, descending=True, stable=True)
    top_k = min(top_k, n)
    order = order[..., :top_k].masked_fill(values[..., :top_k] == -torch.inf, n)  # n sorts behind every position
    order = order.sort(dim=-1).values
    return order.masked_fill(order == n, -1).to(torch.int32)
