"""What can still be told from its surroundings: contrast, contrast over noise, and a model observer, disc by disc.

1. Core: pixels at least one pixel inside the disc's rim. Ring: 4 pixels wide, 2 pixels outside the rim. Contrast: mean
   of the core less mean of the ring. CNR: contrast over a pixel's standard deviation where there is nothing.
2. Non-prewhitening observer (AAPM TG-233, section on detectability; Barrett & Myers 2004, section 13.2): the response
   to an image is the sum of w x, where the template w is what the disc itself adds to its surroundings; their level is
   the mean of the ring. d' = mean response to the disc / standard deviation of the response where there is nothing.
3. Nothing: every place of the same image that is uniform as far as the ring reaches; the weights are moved there. This
   needs no model of the noise, and gives the standard error of the contrast, too.

A smoother image has a higher CNR whatever became of the disc, since noise of low frequency, which hides it, is not in a
pixel's standard deviation; d' has it. One scan gives d' to ± 1, N scans to ± 1 / sqrt(N), by what d' is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..phantoms.phantom import Insert
from .edges import distance
from .places import even

GAP, RING = 2.0, 4.0
"""Pixels."""
LEAST_PLACES = 400
"""Uniform places that a standard deviation needs; neighbouring ones say nearly the same."""

Scans = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Detected:
    """What scans show of a disc.

    Parameters
    ----------
    contrast : float
        Mean over the scans, in HU.
    error : float
        Its standard error.
    cnr, d_prime : float
        Negative where the disc looks brighter than its surroundings and is darker, or the other way round.

    All but the contrast are NaN where the phantom has too few uniform places of the disc's size, or there is no noise.
    """

    contrast: float
    error: float
    cnr: float
    d_prime: float


class Detector:
    """The weights of steps 1 and 2 for one disc of a phantom, and the uniform places of its size.

    Parameters
    ----------
    truth : ndarray, shape (H, W)
        Without noise, in HU.
    disc : Insert
        With its surroundings inside the image.

    Raises
    ------
    ValueError
        If the ring leaves the image.
    """

    def __init__(self, truth: NDArray[np.floating[Any]], disc: Insert) -> None:
        self.disc = disc
        reach = math.ceil(disc.radius + GAP + RING) + 1
        row, column = round(disc.row), round(disc.column)
        if min(row, column, truth.shape[0] - 1 - row, truth.shape[1] - 1 - column) < reach:
            raise ValueError(f"the surroundings of the disc at {disc.row:g}, {disc.column:g} leave the image")
        self._cut = (slice(row - reach, row + reach + 1), slice(column - reach, column + reach + 1))
        away = distance((2 * reach + 1,) * 2, disc.row - row + reach, disc.column - column + reach)
        self._ring = (away > disc.radius + GAP) & (away <= disc.radius + GAP + RING)
        core = away <= max(disc.radius - 1, 0.7 * disc.radius)
        seen = truth[self._cut].astype(np.float64)
        around = self._ring / np.count_nonzero(self._ring)
        self._contrast = core / np.count_nonzero(core) - around
        signal = np.where(away <= disc.radius + GAP, seen - seen[self._ring].mean(), 0.0)
        self._template = signal - signal.sum() * around
        self._uniform = even(truth, reach)
        self.contrast = float((self._contrast * seen).sum())
        """Of the truth, in HU."""

    def __call__(self, scans: Scans) -> Detected:
        """What ``scans`` [N, H, W] of the same truth show, in HU."""
        sign, cut = math.copysign(1, self.contrast), (slice(None), *self._cut)
        seen = scans[cut].astype(np.float64)
        contrast = float(np.tensordot(seen, self._contrast).mean())
        response = float(np.tensordot(seen, self._template).mean())
        if np.count_nonzero(self._uniform) < LEAST_PLACES:
            return Detected(contrast, math.nan, math.nan, math.nan)
        pixel = math.sqrt(float(np.mean([scan[self._uniform].var(dtype=np.float64) for scan in scans])))
        error, nothing = (self._nothing(scans, weights) for weights in (self._contrast, self._template))
        return Detected(
            contrast,
            error / math.sqrt(len(scans)),
            sign * contrast / pixel if pixel > 0 else math.nan,
            response / nothing if nothing > 0 else math.nan,
        )

    def _nothing(self, scans: Scans, weights: NDArray[np.float64]) -> float:
        """Standard deviation of the response at uniform places."""
        from scipy.signal import fftconvolve

        mirrored = weights[::-1, ::-1]  # a convolution mirrors them back
        responses = [fftconvolve(scan, mirrored, mode="same")[self._uniform] for scan in scans.astype(np.float64)]
        return math.sqrt(float(np.mean(np.square(responses))))
