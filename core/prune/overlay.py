"""The picture with its kept tokens: these as they are and outlined, dropped ones dimmed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..models.geometry import Geometry
from ..models.pictures import ColourPicture

LEAST_SIDE, MOST_SIDE = 512, 1536
"""Pixels of the longer side: small pictures are enlarged by a whole factor, so that outlines cover little of them."""
DIMMED, UNSEEN = 0.25, 0.5
"""How much is left of the brightness of a dropped token; how much white is laid over what the model did not see."""
KEPT, MERGED = np.array((255, 196, 0), np.uint8), np.array((0, 200, 255), np.uint8)
"""Outlines: of a token that stayed as it was, and of one that others were merged into."""


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
    pixels = np.rint(picture.pixels.transpose(1, 2, 0).clip(0, 1) * 255).astype(np.uint8)
    enlarged = height >= pixels.shape[0]
    how = Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(pixels).resize((width, height), how))


def overlay(
    picture: ColourPicture, geometry: Geometry, kept: Sequence[int], *, merged: Sequence[int] = ()
) -> NDArray[np.uint8]:
    """Draw which visual tokens of a picture were kept.

    Parameters
    ----------
    picture : ColourPicture
    geometry : Geometry
        Of its tokens, ``geometry.size`` being that of the user's file.
    kept : sequence of int
        Numbers of the tokens that were kept; those that are nowhere in the picture, such as ends of lines, are
        not drawn.
    merged : sequence of int
        Those among them that hold more than themselves.

    Returns
    -------
    ndarray, shape (H, W, 3), uint8. Where several tiles cover a pixel, it is as bright as the share of their tokens
    that were kept. What no token covers is pale.
    """
    pixels = base(picture)
    size = pixels.shape[:2]
    stays = np.zeros(geometry.count)
    stays[np.asarray(kept, np.int64)] = 1
    share = geometry.on_pixels(stays, size=size)[..., None]
    light = DIMMED + (1 - DIMMED) * np.nan_to_num(share)
    grey = pixels.mean(-1, keepdims=True)
    dimmed = np.where(share > 0, pixels * light, grey * light)
    drawn = np.where(np.isnan(share), grey * (1 - UNSEEN) + 255 * UNSEEN, dimmed)
    out = np.rint(drawn).astype(np.uint8)
    _outline(out, geometry, set(map(int, kept)) - set(map(int, merged)), KEPT)
    _outline(out, geometry, set(map(int, merged)), MERGED)
    return out


def _outline(out: NDArray[np.uint8], geometry: Geometry, tokens: set[int], colour: NDArray[np.uint8]) -> None:
    """Frames just inside the boxes of tokens, as far as they are in the picture."""
    height, width = out.shape[:2]
    down, across = height / geometry.size[0], width / geometry.size[1]
    boxes = geometry.boxes().numpy() * (down, across, down, across)
    for token, box in zip(geometry.patches().tolist(), boxes, strict=True):
        if token not in tokens:
            continue
        top, left, bottom, right = (round(edge) for edge in box)
        line = max(1, min(bottom - top, right - left) // 16)
        rows, columns = slice(max(0, top), max(0, bottom)), slice(max(0, left), max(0, right))
        for low, high in ((top, top + line), (bottom - line, bottom)):
            out[max(0, low) : max(0, high), columns] = colour
        for low, high in ((left, left + line), (right - line, right)):
            out[rows, max(0, low) : max(0, high)] = colour
