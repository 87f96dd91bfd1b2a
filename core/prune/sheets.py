"""The visual tokens of a picture as the grids that a person would see: lines that continue each other are one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..models.geometry import Box, Geometry, PatchGrid


@dataclass(frozen=True, slots=True, eq=False)
class Sheet:
    """One grid of tokens.

    Parameters
    ----------
    tokens : ndarray of int64 [h, w]
        Their numbers in the prompt.
    box : (top, left, bottom, right)
        What it covers of the picture, in pixels.
    """

    tokens: NDArray[np.int64]
    box: Box


def sheets_of(geometry: Geometry) -> list[Sheet]:
    """The grids of one picture. LLaVA-NeXT's lines, between which there is a token for their end, are one grid."""
    groups: list[list[PatchGrid]] = []
    for tile in geometry.tiles:
        if groups and _continues(groups[-1], tile):
            groups[-1].append(tile)
        else:
            groups.append([tile])
    return [_sheet(group) for group in groups]


def _continues(group: list[PatchGrid], tile: PatchGrid) -> bool:
    """Whether a line of tokens is the next one of a grid of lines."""
    last = group[-1]
    (_, left, bottom, right), box = last.box, tile.box
    edges = zip((bottom, left, right), (box[0], box[1], box[3]), strict=True)
    return last.grid[0] == 1 and tile.grid == last.grid and all(math.isclose(a, b, abs_tol=1e-6) for a, b in edges)


def _sheet(group: list[PatchGrid]) -> Sheet:
    tokens = np.concatenate([np.array(tile.tokens).reshape(tile.grid) for tile in group])
    top, left, _, right = group[0].box
    return Sheet(tokens, (top, left, group[-1].box[2], right))


def smooth_on_pixels(geometry: Geometry, values: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """A value per token laid onto the picture, bilinear in between; ``Geometry.on_pixels`` shows the patches.

    Parameters
    ----------
    geometry : Geometry
    values : ndarray, shape (T,)
        Of every visual token of the prompt.
    size : (H, W)
        Of the result.

    Returns
    -------
    ndarray, shape (H, W), float64
        The mean where several grids cover a pixel; NaN where none does. float32 inside, as Pillow has it.
    """
    summed, covered = np.zeros(size), np.zeros(size)
    scale = (size[0] / geometry.size[0], size[1] / geometry.size[1])
    for sheet in sheets_of(geometry):
        top, left, bottom, right = (round(edge * scale[axis % 2]) for axis, edge in enumerate(sheet.box))
        if bottom <= top or right <= left:
            continue
        image = Image.fromarray(np.ascontiguousarray(values[sheet.tokens], np.float32))
        smooth = np.asarray(image.resize((right - left, bottom - top), Image.Resampling.BILINEAR), np.float64)
        y0, x0, y1, x1 = max(top, 0), max(left, 0), min(bottom, size[0]), min(right, size[1])
        if y1 > y0 and x1 > x0:  # a grid may lie in what was padded
            summed[y0:y1, x0:x1] += smooth[y0 - top : y1 - top, x0 - left : x1 - left]
            covered[y0:y1, x0:x1] += 1
    with np.errstate(invalid="ignore"):
        return summed / covered
