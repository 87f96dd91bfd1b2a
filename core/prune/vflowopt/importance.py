"""How important each patch is: attention received from the patches that all attend to, and entropy of its grey values.

Specification: methods/vflowopt.md, section 3.1. Two passes over rows of attention, the second over the important ones
alone: the matrix of all rows is never made (section 7; ``engine.tower`` streams them).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Reduce = Literal["mean", "sum"]
Received = Callable[[Tensor | None], Tensor]
"""Which patches' rows are meant [cells, m] bool (None: all) -> attention that each patch receives, mean over heads and
over those rows of its view, [cells, m]."""
GREYS = 256


@dataclass(frozen=True, slots=True)
class Importance:
    """The maps of the views (pictures, tiles, frames) of a batch; m patches make a cell, of which a token is made.

    Parameters
    ----------
    values : Tensor [cells, m]
    received : Tensor [cells, m]
        Mean attention that each patch receives.
    thresholds : Tensor [views]
        Patches above it are important.
    important : Tensor of bool [cells, m]
    fallback : Tensor of bool [views]
        No patch was above the threshold: the one that receives most is taken.
    """

    values: Tensor
    received: Tensor
    thresholds: Tensor
    important: Tensor
    fallback: Tensor

    @property
    def cells(self) -> Tensor:
        """Mean over the patches of a cell, as they are merged, [cells] (section 12)."""
        return self.values.mean(1)


def importance(
    receive: Received, views: Tensor, *, t: float, alpha: float = 0.0, entropy: Tensor | None = None,
    reduce: Reduce = "mean",
) -> Importance:  # fmt: skip
    """Steps 1 to 3 of section 3.1, view by view.

    Parameters
    ----------
    receive : Received
    views : Tensor of int64 [cells]
        In which view each cell is, from 0; all cells of a view follow each other.
    t : float
        Patches that receive more than t times the mean are important.
    alpha : float
        Weight of the entropy.
    entropy : Tensor [cells, m], optional
        Of ``patch_entropy``; needed unless ``alpha`` is 0.
    reduce : {"mean", "sum"}
        Over the important patches: as in the code and the released settings, or as in the paper.
    """
    received = receive(None)
    sizes = views.bincount().tolist()
    parts = torch.split(received, sizes)
    thresholds = t * torch.stack([part.mean() for part in parts])
    important = received > thresholds[views][:, None]
    fallback = torch.stack([~part.any() for part in torch.split(important, sizes)])
    for part, chosen, empty in zip(parts, torch.split(important, sizes), fallback.tolist(), strict=True):
        if empty:
            chosen.view(-1)[part.argmax()] = True
    values = receive(important)
    if reduce == "sum":
        counts = torch.stack([chosen.sum() for chosen in torch.split(important, sizes)])
        values = values * counts[views][:, None]
    if alpha:
        if entropy is None:
            raise ValueError("alpha asks for the entropy of the patches")
        peaks = [part.flatten().softmax(0).view_as(part) for part in torch.split(entropy.to(values), sizes)]
        values = values + alpha * torch.cat(peaks)
    return Importance(values, received, thresholds, important, fallback)


def patch_entropy(grey: Tensor) -> Tensor:
    """Entropy of the grey values of each patch, in bits.

    Parameters
    ----------
    grey : Tensor of int64 [N, P]
        0 to 255: the true ones, normalisation undone.

    Returns
    -------
    Tensor [N], float32
    """
    n, pixels = grey.shape
    shifted = grey + GREYS * torch.arange(n, device=grey.device)[:, None]
    p = torch.bincount(shifted.flatten(), minlength=n * GREYS).view(n, GREYS).double() / pixels
    bits: Tensor = torch.special.xlogy(p, p).sum(1) / -math.log(2)
    return bits.float()


def grey_of_patches(patches: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Grey values, the rounded means of red, green and blue, of what a tower was given.

    Parameters
    ----------
    patches : Tensor [N, 3, P]
        Normalised.
    mean, std : Tensor [3]
        Of the normalisation, for values in [0, 1].

    Returns
    -------
    Tensor of int64 [N, P]
    """
    true = (patches.float() * std[:, None] + mean[:, None]) * (GREYS - 1)
    return true.round().clamp(0, GREYS - 1).mean(1).round().long()


def patches_of(pixels: Tensor, patch: int) -> Tensor:
    """Square patches of pictures [V, 3, H, W], row by row, [V, N, 3, patch * patch]; a rest at the edges is left."""
    cut = pixels.unfold(2, patch, patch).unfold(3, patch, patch)  # [V, 3, h, w, p, p]
    return cut.permute(0, 2, 3, 1, 4, 5).flatten(1, 2).flatten(3)
