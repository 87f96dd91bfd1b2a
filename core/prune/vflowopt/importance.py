"""How important each patch is: attention received from the patches that all attend to, and entropy of its grey values.

Specification: methods/vflowopt.md, section 3.1. The matrix of all rows and columns is never made: two passes over rows,
the second over the important ones alone (section 7).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Reduce = Literal["mean", "sum"]
MeanRows = Callable[[Tensor], Tensor]
"""Numbers of rows [R] -> those rows of the attention, mean over heads, [R, N] float32."""
TILE = 64
"""Rows at a time: 4 bytes x 16 heads x 64 x 729, 3 MB."""
GREYS = 256


@dataclass(frozen=True, slots=True)
class Importance:
    """The map of one picture of the tower.

    Parameters
    ----------
    values : Tensor [N]
    received : Tensor [N]
        Mean attention that each patch receives.
    threshold : float
        Patches above it are important.
    important : Tensor of int64 [K]
    fallback : bool
        No patch was above the threshold: the one that receives most is taken.
    """

    values: Tensor
    received: Tensor
    threshold: float
    important: Tensor
    fallback: bool


def mean_rows(q: Tensor, k: Tensor, scale: float) -> MeanRows:
    """Rows of attention among patches from their queries and keys.

    Parameters
    ----------
    q, k : Tensor [H, N, D]
        Of the patches alone: what lies on a class token is shared out among them (section 12).
    scale : float
    """

    def rows(index: Tensor) -> Tensor:
        return ((q[:, index].float() @ k.float().mT) * scale).softmax(-1).mean(0)

    return rows


def importance(
    rows: MeanRows, count: int, *, t: float, alpha: float = 0.0, entropy: Tensor | None = None,
    reduce: Reduce = "mean", device: torch.device | str = "cpu",
) -> Importance:  # fmt: skip
    """Steps 1 to 3 of section 3.1.

    Parameters
    ----------
    rows : MeanRows
    count : int
        Patches N.
    t : float
        Patches that receive more than t times the mean are important.
    alpha : float
        Weight of the entropy.
    entropy : Tensor [N], optional
        Of ``patch_entropy``; needed unless ``alpha`` is 0.
    reduce : {"mean", "sum"}
        Over the important patches: as in the code and the released settings, or as in the paper.
    device : torch.device or str
        Of the rows.
    """
    every = torch.arange(count, device=device)
    received = torch.stack([rows(tile).sum(0) for tile in torch.split(every, TILE)]).sum(0) / count
    threshold = t * float(received.mean())
    chosen = (received > threshold).nonzero().flatten()
    fallback = not len(chosen)
    if fallback:
        chosen = received.argmax()[None]
    values = torch.stack([rows(tile).sum(0) for tile in torch.split(chosen, TILE)]).sum(0)
    if reduce == "mean":
        values = values / len(chosen)
    if alpha:
        if entropy is None:
            raise ValueError("alpha asks for the entropy of the patches")
        values = values + alpha * entropy.to(values).softmax(0)
    return Importance(values, received, threshold, chosen, fallback)


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


def grey_patches(pixels: Tensor, patch: int) -> Tensor:
    """Grey values, the rounded means of red, green and blue, of square patches, row by row.

    Parameters
    ----------
    pixels : Tensor [3, H, W]
        0 to 255; what stands out beyond the last whole patch is left out, as the tower does.
    patch : int

    Returns
    -------
    Tensor of int64 [N, patch * patch]
    """
    grey = pixels.round().mean(0).round().clamp(0, GREYS - 1).long()
    return grey.unfold(0, patch, patch).unfold(1, patch, patch).reshape(-1, patch * patch)
