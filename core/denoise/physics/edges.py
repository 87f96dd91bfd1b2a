"""Edge response of a round rod: the task transfer function (TTF), which of a linear system is its MTF.

Source: the circular-rod method of Richard et al. 2012, doi:10.1118/1.4725171, and AAPM TG-233 (2019).

1. Edge spread p(r): mean of the pixels whose distance from the rod's centre falls into bins of ``BIN`` pixels.
2. Line spread: l(r) = sqrt(r / R) dp/dr. The root is for the bend of the edge: a disc of radius R behind an isotropic
   blur h has dp/dr = -R ∮ h(|x - y|) cos θ dθ, and |x - y|² is close to (r - R)² + r R θ², so that dp/dr is the line
   spread of a straight edge times sqrt(R / r).
3. Window around r = R (flat, cosine ends), Fourier transform, divided by its value at 0 and by what bins and
   differences of width ``BIN`` do (sinc each).

A filter that is not linear has another curve for every contrast and noise: hence "task".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BIN = 0.2
"""Pixels."""
STEP = 0.005
"""Cycles per pixel between the frequencies of a curve."""
REACH = 8.0
"""Pixels."""
ROUND = 0.6
"""Frequency times radius below which the edge is too bent, or the window too narrow, for its blur: off by over 7 %."""
LEAST_CNR = 150.0
"""Contrast over noise, times the root of the rod's pixels: with so much, noise moves the frequency at which the
transfer is half by 5 to 8 % (measured on scans of the phantom ``inserts``; with 400 by 2 %). TG-233 asks for 15, and
forces the edge spread to fall steadily, which this does not."""


@dataclass(frozen=True, slots=True)
class EdgeResponse:
    """A task transfer function.

    Parameters
    ----------
    frequency : ndarray, shape (K,)
        Cycles per mm, from 0.
    transfer : ndarray, shape (K,)
        1 at frequency 0.
    radius_mm : float
        Of the rod.
    """

    frequency: NDArray[np.float64]
    transfer: NDArray[np.float64]
    radius_mm: float

    def falls_to(self, share: float) -> float:
        """The lowest frequency, in cycles per mm, at which the transfer is ``share``.

        NaN where it never falls so far, or where the rod is too small for so wide a blur.
        """
        below = np.flatnonzero(self.transfer < share)
        if not below.size:
            return math.nan
        k = int(below[0])  # at least 1: it starts at 1
        high, low = self.transfer[k - 1], self.transfer[k]
        at = self.frequency[k - 1] + (high - share) / (high - low) * (self.frequency[k] - self.frequency[k - 1])
        return float(at) if at * self.radius_mm >= ROUND else math.nan


def distance(shape: tuple[int, int], row: float, column: float) -> NDArray[np.float64]:
    """[H, W] distance of every pixel's centre from a place, in pixels."""
    return np.asarray(np.hypot(np.arange(shape[0])[:, None] - row, np.arange(shape[1])[None] - column))


def edge_response(
    image: NDArray[np.floating[Any]],
    row: float,
    column: float,
    radius: float,
    *,
    pixel_mm: float = 1.0,
    reach: float | None = None,
) -> EdgeResponse:
    """The task transfer function at the edge of a rod.

    Parameters
    ----------
    image : ndarray, shape (H, W)
        Square pixels; uniform in the rod and around it as far as ``radius + reach``.
    row, column, radius : float
        Of the rod, in pixels; the centre of the first pixel is (0, 0).
    pixel_mm : float
        Side of a pixel, in mm; 1 gives cycles per pixel.
    reach : float, optional
        Pixels on both sides of the edge that are looked at, at most the radius. Default: the radius, at most `REACH`.

    Raises
    ------
    ValueError
        If the circle of ``radius + reach`` leaves the image, or the rod has no contrast.
    """
    reach = min(radius, REACH if reach is None else reach)
    h, w = image.shape
    if not (reach > 0 and min(row, column, h - 1 - row, w - 1 - column) >= radius + reach):
        raise ValueError(f"a rod at {row:g}, {column:g} of radius {radius:g} has no {reach:g} pixels around it")
    away = distance(image.shape, row, column)
    count = math.ceil((radius + reach) / BIN)
    inside = away < count * BIN
    bins = (away[inside] / BIN).astype(int)
    sizes = np.bincount(bins, minlength=count)
    seen = sizes > 0  # near the centre there are bins without a pixel
    middle = (np.arange(count) + 0.5) * BIN
    own, value = (np.bincount(bins, of[inside], count)[seen] / sizes[seen] for of in (away, image))
    spread = np.interp(middle, own, value)
    between = middle[:-1] + BIN / 2
    line = np.sqrt(between / radius) * np.diff(spread)
    offset = (between - radius) / reach  # -1 ... 1
    line *= np.where(np.abs(offset) < 0.5, 1, 0.5 - 0.5 * np.cos(2 * np.pi * np.clip(1 - np.abs(offset), 0, 0.5)))
    frequency = np.arange(0, 1, STEP)
    transform = np.abs(np.exp(-2j * np.pi * frequency[:, None] * between) @ line)
    if not transform[0] > 1e-9 * np.abs(image[inside]).max():
        raise ValueError(f"the rod at {row:g}, {column:g} has no contrast")
    transfer = transform / transform[0] / np.sinc(BIN * frequency) ** 2
    return EdgeResponse(frequency / pixel_mm, transfer, radius * pixel_mm)
