"""Deletion and insertion: does the class score follow the map when the picture is taken away in its order?

Source: Petsiuk et al., "RISE", BMVC 2018 (arXiv 1806.07421), section 4.3: AUC of the class probability as the pixels
that weigh most are removed (low is good), and as they are put onto a blank picture (high is good). A random order gives
the same curve twice, on average: the difference of the two areas is 0 for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Predict = Callable[[Tensor], Tensor]
"""Pictures [B, 3, h, w], prepared as the model takes them -> score of the class in question, [B], in [0, 1]."""
STEPS = 16
SEEDS = 8


@dataclass(frozen=True, slots=True)
class Removal:
    """What a map's order came to, beside random orders.

    Parameters
    ----------
    deletion, insertion : float
        Areas under the curves, in the unit of the score.
    random_deletion, random_insertion : ndarray, shape (S,)
        Those of random orders of the same cells.
    curves : ndarray, shape (2, K + 1)
        Score over the share of the picture, deletion then insertion.
    """

    deletion: float
    insertion: float
    random_deletion: NDArray[np.float64]
    random_insertion: NDArray[np.float64]
    curves: NDArray[np.float64]

    @property
    def gap(self) -> float:
        """Insertion minus deletion: 0 where the order says nothing, at most 1."""
        return self.insertion - self.deletion

    @property
    def random_gaps(self) -> NDArray[np.float64]:
        return self.random_insertion - self.random_deletion


def deletion_insertion(
    predict: Predict, pixels: Tensor, weights: NDArray[np.floating], *, baseline: Tensor | float = 0.0,
    steps: int = STEPS, seeds: int = SEEDS, seed: int = 0, batch: int = 32,
) -> Removal:  # fmt: skip
    """Areas under the deletion and insertion curves of a map, and of random orders.

    Parameters
    ----------
    predict : callable
        See ``Predict``.
    pixels : Tensor, shape (3, h, w)
        The picture as the model takes it.
    weights : ndarray, shape (a, b)
        The map, of cells that divide the picture evenly (patches), or of its pixels; high weighs much. Equal weights
        are ordered at random, and so is what is not finite, behind everything else.
    baseline : Tensor, broadcasts to ``pixels``, or float
        What stands where the picture was taken away; 0 is the mean colour of normalised pictures.
    steps : int
        Points of each curve beside its start.
    seeds : int
        Number of random orders.
    seed : int
    batch : int
        Pictures per call of ``predict``.

    Raises
    ------
    ValueError
        If the cells do not divide the picture, or there are fewer steps or seeds than one.
    """
    height, width = pixels.shape[1:]
    rows, columns = weights.shape
    if height % rows or width % columns or min(steps, seeds) < 1:
        raise ValueError(f"{rows} x {columns} cells, {steps} steps and {seeds} seeds for {height} x {width} pixels")
    draw = np.random.default_rng(seed)
    ties = draw.permutation(weights.size)
    ranked = np.lexsort((ties, -np.nan_to_num(weights.ravel().astype(np.float64), nan=-np.inf, posinf=-np.inf)))
    orders = [ranked, *(draw.permutation(weights.size) for _ in range(seeds))]
    steps = min(steps, weights.size)
    counts = np.rint(np.linspace(0, weights.size, steps + 1)).astype(np.int64)
    blank = torch.as_tensor(baseline, dtype=pixels.dtype, device=pixels.device).expand_as(pixels)
    cell = torch.arange(weights.size).view(rows, columns)
    cell = cell.repeat_interleave(height // rows, 0).repeat_interleave(width // columns, 1)  # [h, w]

    def pictures(order: NDArray[np.int64]) -> list[Tensor]:
        """Masks [h, w] of what is among the first cells of an order."""
        place = torch.empty(weights.size, dtype=torch.int64)
        place[torch.from_numpy(order)] = torch.arange(weights.size)
        return [(place[cell] < count).to(pixels.device) for count in counts]

    def curve(masks: list[Tensor], inside: Tensor, outside: Tensor) -> NDArray[np.float64]:
        scores: list[NDArray[np.float64]] = []
        with torch.no_grad():
            for start in range(0, len(masks), batch):
                made = [torch.where(mask, inside, outside) for mask in masks[start : start + batch]]
                scores.append(predict(torch.stack(made)).double().cpu().numpy())
        return np.concatenate(scores)

    share = counts / weights.size
    deletions, insertions = [], []
    for order in orders:
        masks = pictures(order)
        deletions.append(curve(masks, blank, pixels))
        insertions.append(curve(masks, pixels, blank))
    widths = np.diff(share)
    deleted, inserted = (
        np.array([float(((one[1:] + one[:-1]) / 2 * widths).sum()) for one in curves])
        for curves in (deletions, insertions)
    )
    return Removal(
        float(deleted[0]), float(inserted[0]), deleted[1:], inserted[1:], np.stack([deletions[0], insertions[0]])
    )
