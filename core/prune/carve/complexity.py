"""How busy a picture is: its share of edge pixels and the spread of its hues (methods/carve.md, section 3.7).

OpenCV's definitions on 8 bits, from which the recorded numbers come: grey and hue in its fixed point, Canny on the sum
of absolute Sobel derivatives without smoothing. Measured on photos and noise, the edges are OpenCV's to the pixel.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

LOW, HIGH = 100, 200
HUES = 180
_TANGENT = round((2**0.5 - 1) * 2**15)
"""tan 22.5 degrees: gradients below it point to the side neighbours."""


def texture_complexity(image: NDArray[np.uint8]) -> float:
    """Share of edge pixels of a picture [H, W, 3]."""
    return float(edges(grey_of(image)).mean())


def colour_complexity(image: NDArray[np.uint8]) -> float:
    """Entropy of the hues of a picture [H, W, 3] over 180 bins, 1 where all are there equally often."""
    share = np.bincount(hue_of(image).ravel(), minlength=HUES) / image[..., 0].size
    share = share[share > 0]
    return float(-(share * np.log(share)).sum() / np.log(HUES))


def grey_of(image: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Luma of 8-bit colours [H, W, 3], 0 to 255."""
    return np.asarray((image.astype(np.int64) @ np.array([9798, 19235, 3735]) + (1 << 14)) >> 15)


def hue_of(image: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Hue of 8-bit colours [H, W, 3] in half degrees, 0 to 179; 0 of greys."""
    red, green, blue = np.moveaxis(image.astype(np.int64), -1, 0)
    largest = image.max(-1).astype(np.int64)
    spread = largest - image.min(-1)
    turn = np.where(
        largest == red,
        green - blue,
        np.where(largest == green, blue - red + 2 * spread, red - green + 4 * spread),
    )
    factor = np.rint((HUES << 12) / (6 * np.maximum(spread, 1))).astype(np.int64)
    hue = (turn * factor + (1 << 11)) >> 12
    return np.where(spread == 0, 0, np.where(hue < 0, hue + HUES, hue))


def edges(grey: NDArray[np.int64], low: int = LOW, high: int = HIGH) -> NDArray[np.bool_]:
    """Canny edges of a grey picture [H, W]."""
    dx, dy = (ndimage.sobel(grey, axis, mode="nearest") for axis in (1, 0))
    strength = np.pad(np.abs(dx) + np.abs(dy), 1)

    def beside(down: int, across: int) -> NDArray[np.int64]:
        return strength[1 + down : strength.shape[0] - 1 + down, 1 + across : strength.shape[1] - 1 + across]

    own, x, y = beside(0, 0), np.abs(dx), np.abs(dy) << 15
    level, steep = y < x * _TANGENT, y > x * _TANGENT + (x << 16)
    falling = (dx ^ dy) < 0
    diagonal = np.where(
        falling, (own > beside(-1, 1)) & (own > beside(1, -1)), (own > beside(-1, -1)) & (own > beside(1, 1))
    )
    ridge = np.where(
        level,
        (own > beside(0, -1)) & (own >= beside(0, 1)),
        np.where(steep, (own > beside(-1, 0)) & (own >= beside(1, 0)), diagonal),
    )
    labels, count = ndimage.label(ridge & (own > low), np.ones((3, 3)))  # weak edges stay that touch a strong one
    strong = ndimage.maximum(own, labels, np.arange(1, count + 1)) > high
    return np.asarray(np.concatenate([[False], strong])[labels], np.bool_)
