"""The picture with its kept tokens: these as they are and outlined, dropped ones dimmed."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from ..io.bands import nearest
from ..models.geometry import Geometry, PatchGrid
from ..models.pictures import ColourPicture, eight_bits

LEAST_SIDE, MOST_SIDE = 512, 1536
"""Pixels of the longer side: small pictures are enlarged by a whole factor, so that outlines cover little of them."""
DIMMED, UNSEEN = 0.25, 0.5
"""How much is left of the brightness of a dropped token; how much white is laid over what the model did not see."""
THICKEST = 6
"""Pixels of an outline."""
KEPT, MERGED = np.array((255, 196, 0), np.uint8), np.array((0, 200, 255), np.uint8)
"""Outlines: of a token that stayed as it was, and of one that holds others, too."""


def shown_size(picture: ColourPicture) -> tuple[int, int]:
    """Height and width at which a picture is drawn."""
    height, width = picture.pixels.shape[1:]
    longest = max(height, width)
    if longest > MOST_SIDE:
        return max(1, round(height * MOST_SIDE / longest)), max(1, round(width * MOST_SIDE / longest))
    factor = max(1, math.ceil(LEAST_SIDE / longest))
    return height * factor, width * factor


def base(picture: ColourPicture) -> NDArray[np.uint8]:
    """The picture itself at that size, [H, W, 3]."""
    from PIL import Image

    height, width = shown_size(picture)
    pixels = eight_bits(picture.pixels)
    enlarged = height >= pixels.shape[0]
    how = Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(pixels).resize((width, height), how))


def overlay(
    picture: ColourPicture, geometry: Geometry, owner: NDArray[np.int64], merged: Collection[int] = ()
) -> NDArray[np.uint8]:
    """Draw what became of the visual tokens of a picture.

    Parameters
    ----------
    picture : ColourPicture
    geometry : Geometry
        Of its tokens, ``geometry.size`` being that of the user's file.
    owner : ndarray of int64, shape (count,)
        Of each token, the one that holds it now: itself, one that it was merged into, or -1 where it was dropped. Those
        that are nowhere in the picture, such as ends of lines, are not drawn.
    merged : collection of int
        Tokens that hold more than themselves, where it is not known of what.

    Returns
    -------
    ndarray, shape (H, W, 3), uint8. Where several tiles cover a pixel, it is as bright as the share of their tokens
    that were kept. What no token covers is pale.
    """
    pixels = base(picture)
    share = geometry.on_pixels((owner >= 0).astype(np.float64), size=pixels.shape[:2])[..., None]
    light = DIMMED + (1 - DIMMED) * np.nan_to_num(share)
    grey = pixels.mean(-1, keepdims=True)
    dimmed = np.where(share > 0, pixels * light, grey * light)
    drawn = np.where(np.isnan(share), grey * (1 - UNSEEN) + 255 * UNSEEN, dimmed)
    out = np.rint(drawn).astype(np.uint8)
    _outline(out, geometry, owner, merged)
    return out


def _outline(
    out: NDArray[np.uint8], geometry: Geometry, owner: NDArray[np.int64], merged: Collection[int] = ()
) -> None:
    """Frames just inside of tokens that were kept, as far as they are in the picture; around merged ones as a whole."""
    height, width = out.shape[:2]
    down, across = height / geometry.size[0], width / geometry.size[1]
    holds = np.bincount(owner[owner >= 0], minlength=len(owner))
    boxes = iter(geometry.boxes().numpy() * (down, across, down, across))
    for tile in geometry.tiles:
        of = np.pad(owner[tile.start : tile.tokens.stop].reshape(tile.grid), 1, constant_values=-1)
        for row, column in np.ndindex(tile.grid):
            box, own = next(boxes), of[row + 1, column + 1]
            if own < 0:
                continue
            top, left, bottom, right = (round(edge) for edge in box)
            line = max(1, min(THICKEST, min(bottom - top, right - left) // 16))
            sides = (
                ((row, column + 1), (top, top + line, left, right)),
                ((row + 2, column + 1), (bottom - line, bottom, left, right)),
                ((row + 1, column), (top, bottom, left, left + line)),
                ((row + 1, column + 2), (top, bottom, right - line, right)),
            )
            for neighbour, (above, below, before, behind) in sides:
                if of[neighbour] != own:
                    rows, columns = slice(max(0, above), max(0, below)), slice(max(0, before), max(0, behind))
                    out[rows, columns] = MERGED if holds[own] > 1 or own in merged else KEPT


def pixel_overlay(
    picture: ColourPicture, mask: NDArray[np.bool_], box: tuple[int, int, int, int] | None
) -> NDArray[np.uint8]:
    """Draw which pixels of a picture were kept.

    Parameters
    ----------
    picture : ColourPicture
    mask : ndarray of bool, shape (h, w)
        Of ``picture.pixels``.
    box : (x0, y0, x1, y1) or None
        What was cut out, in pixels of the user's file.

    Returns
    -------
    ndarray, shape (H, W, 3), uint8
    """
    pixels = base(picture)
    height, width = pixels.shape[:2]
    stays = nearest(mask, (height, width), 0, height)[..., None]
    out = np.rint(np.where(stays, pixels, pixels.mean(-1, keepdims=True) * DIMMED)).astype(np.uint8)
    if box is not None:
        whole = PatchGrid(0, (1, 1), (float(box[1]), float(box[0]), float(box[3]), float(box[2])))
        _outline(out, Geometry(picture.size, 0, 0, (whole,)), np.zeros(1, np.int64))
    return out
