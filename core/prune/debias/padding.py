"""Which visual tokens show padding (methods/attention-debias.md, section 3.4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ...models.geometry import Geometry, PatchGrid

Rule = Literal["area", "rows"]

THRESHOLD = 0.5
"""A token shows padding where more of its patch than this does: FastV, HiMAP, TokenCarve; PyramidDrop: 0.01."""


def square_padded(size: tuple[int, int], grid: int) -> Geometry:
    """A picture padded to a square, as LLaVA-1.5 does it, cut into ``grid`` x ``grid`` patches.

    Parameters
    ----------
    size : (H, W)
        Of the picture, in pixels.
    grid : int
    """
    side = max(size)
    top, left = (side - size[0]) / 2, (side - size[1]) / 2
    return Geometry(size, 0, 0, (PatchGrid(0, (grid, grid), (-top, -left, side - top, side - left)),))


def valid_patches(size: tuple[int, int], grid: int, *, threshold: float = THRESHOLD, rule: Rule = "area") -> Tensor:
    """The released masks of a picture padded to a square, for parity; a model's own geometry says it for all others.

    Parameters
    ----------
    size : (H, W)
    grid : int
        Patches down and across.
    threshold : float
    rule : {"area", "rows"}
        ``area``: patches with at most ``threshold`` of padding; ``rows``: whole rows (columns, of a tall picture), by
        integers, the rule of FastV's released "before".

    Returns
    -------
    Tensor of bool [grid, grid]
    """
    if rule == "area":
        return (square_padded(size, grid).padding() <= threshold).view(grid, grid)
    height, width = size
    valid = torch.zeros(grid, grid, dtype=torch.bool)
    if height > width:
        return valid_patches((width, height), grid, rule="rows").T
    edge = (grid - int(height * (grid / width))) // 2
    valid[edge : grid - edge] = True
    return valid


def padded_tokens(pictures: Sequence[Geometry], count: int) -> Tensor:
    """Share of padding in the patch of each of a prompt's ``count`` visual tokens, [count] float64; 0 without a patch.

    Raises ``ValueError`` where the pictures have other tokens than the prompt.
    """
    shares = torch.zeros(count, dtype=torch.float64)
    for picture in pictures:
        if picture.count > count:
            raise ValueError(f"a picture's tokens go up to {picture.count}; the prompt has {count}")
        shares[picture.patches()] = picture.padding()
    return shares
