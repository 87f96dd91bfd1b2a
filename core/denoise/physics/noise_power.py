"""Noise power spectrum (NPS) of uniform places: how much noise there is, and how coarse.

Source: ICRU Report 87 (2012), eq. 11.1; AAPM TG-233 (2019), section on noise; IEC 61223-3-5.

1. Square regions in uniform places, at most half overlapping, all of one side (``uniform_squares``, ``squares_in``).
2. From each a polynomial of second order in row and column is taken away (cupping, slow anatomy).
3. NPS(fy, fx) = dy dx / (Ny Nx) * mean over the regions of |DFT(region)|², in (unit of the pixels)² mm².
   Its integral over all frequencies is the variance.
4. Radial mean over rings of width 1 / (side * coarser spacing), up to the coarser Nyquist frequency. Peak: its largest
   value. Mean frequency: sum of f NPS(f) over sum of NPS(f) of that curve (TG-233's f_av).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIDES = (64, 32)
"""Pixels: sides of the regions that are looked for, the larger first, since it tells frequencies better apart."""
ENOUGH = 4
"""So many regions make a spectrum; fewer of the larger side, and the smaller is tried."""
FLAT_SHARE = 0.9
"""Of a region's pixels that must be flat; noise alone makes some look as if they were not."""
EXCESS = 1.15
"""Standard deviation of a region over the noise level there, above which there is more than noise in it."""

Stack = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Squares:
    """Where noise is measured: squares of one side, each by its slice, first row and first column.

    Parameters
    ----------
    side : int
        In pixels.
    corners : ndarray of int, shape (n, 3)
    """

    side: int
    corners: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.corners)

    def of(self, slices: Sequence[int]) -> Squares:
        """The same squares, whose slice k is ``slices[k]`` of a larger stack."""
        return Squares(self.side, np.column_stack([np.asarray(slices)[self.corners[:, 0]], self.corners[:, 1:]]))

    def cut(self, pixels: Stack) -> NDArray[np.float64]:
        """[n, side, side] float64 of ``pixels`` [Z, H, W]."""
        side = self.side
        return np.array([pixels[z, y : y + side, x : x + side] for z, y, x in self.corners], np.float64)


def uniform_squares(flat: Mask, usable: Mask, level: Stack, pixels: Stack) -> Squares | None:
    """The uniform squares of a stack: of the largest of ``SIDES`` of which there are ``ENOUGH``.

    A square is uniform where all of its pixels are usable, ``FLAT_SHARE`` of them flat, and it varies as the noise
    does, by at most ``EXCESS`` of its level. No two of a slice share more than half of either.

    Parameters
    ----------
    flat : ndarray of bool, shape (Z, H, W)
        Where the image has no edge.
    usable : ndarray of bool, shape (Z, H, W)
        Where it has no padding and no clipped pixel.
    level : ndarray, shape (Z, H, W)
        Standard deviation of the noise, in the unit of ``pixels``; infinite where only ``flat`` is to count.
    pixels : ndarray, shape (Z, H, W)
        The noisy image.

    Returns
    -------
    Squares or None. None where there are too few of any side.
    """
    for side in SIDES:
        corners = [
            (z, y, x) for z, masks in enumerate(zip(flat, usable, strict=True)) for y, x in _flat_squares(*masks, side)
        ]
        if len(corners) < ENOUGH:
            continue
        squares = Squares(side, np.array(corners))
        spread = detrended(squares.cut(pixels)).std((1, 2))
        kept = spread <= EXCESS * np.sqrt((squares.cut(level) ** 2).mean((1, 2)))
        if np.count_nonzero(kept) >= ENOUGH:
            return Squares(side, squares.corners[kept])
    return None


def _flat_squares(flat: Mask, usable: Mask, side: int) -> list[tuple[int, int]]:
    """The flattest squares of a slice first, each at least half a side away (in rows or columns) from all before it."""
    if side > min(flat.shape):
        return []
    count = _true_in_squares(flat & usable, side)
    free = (count >= FLAT_SHARE * side**2) & (_true_in_squares(usable, side) == side**2)
    count = np.where(free, count, -1)
    flattest = np.argsort(-count, axis=None, kind="stable")[: np.count_nonzero(free)]
    chosen: list[tuple[int, int]] = []
    half = side // 2
    for place in flattest:
        y, x = divmod(int(place), count.shape[1])
        if free[y, x]:
            chosen.append((y, x))
            free[max(y - half + 1, 0) : y + half, max(x - half + 1, 0) : x + half] = False
    return chosen


def _true_in_squares(mask: Mask, side: int) -> NDArray[np.int64]:
    """[H - side + 1, W - side + 1] how many pixels are True in the square that begins there."""
    sums = np.pad(mask.cumsum(0, dtype=np.int64).cumsum(1), ((1, 0), (1, 0)))
    return np.asarray(sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side])


def squares_in(boxes: Sequence[tuple[int, int, int, int]], slices: int) -> Squares:
    """Squares of one side, half overlapping, that fill rectangles which a user says are uniform.

    Parameters
    ----------
    boxes : sequence of (x0, y0, x1, y1)
        Columns x0..x1-1, rows y0..y1-1, no side below ``base.LEAST_BOX``.
    slices : int
        Every rectangle counts in each of so many slices.
    """
    side = min(SIDES[0], *(min(x1 - x0, y1 - y0) for x0, y0, x1, y1 in boxes))
    corners = [
        (z, y, x)
        for z in range(slices)
        for x0, y0, x1, y1 in boxes
        for y in _starts(y0, y1, side)
        for x in _starts(x0, x1, side)
    ]
    return Squares(side, np.array(corners))


def _starts(low: int, high: int, side: int) -> list[int]:
    """Where intervals of ``side`` start that fill low..high evenly, with at most half of each in the next."""
    count = 1 + (high - low - side) // (side // 2)
    return [int(start) for start in np.linspace(low, high - side, count).round()] if count > 1 else [low]


@dataclass(frozen=True)
class NoisePower:
    """A measured noise power spectrum.

    Parameters
    ----------
    spectrum : ndarray, shape (side, side)
        (unit of the pixels)² times the area of ``spacing``'s unit, frequency 0 first as ``numpy.fft`` has it.
    spacing : tuple of float
        Of rows and columns, in mm; (1, 1) for frequencies per pixel.
    regions : int
        Squares that were averaged.
    """

    spectrum: NDArray[np.float64]
    spacing: tuple[float, float]
    regions: int

    @property
    def std(self) -> float:
        """Standard deviation of the noise, in the unit of the pixels: root of the spectrum's integral."""
        side = len(self.spectrum)
        return math.sqrt(float(self.spectrum.sum()) / (side**2 * self.spacing[0] * self.spacing[1]))

    @cached_property
    def _rings(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        side, coarse = len(self.spectrum), max(self.spacing)
        down, across = (np.fft.fftfreq(side, d) for d in self.spacing)
        ring = np.rint(np.hypot(down[:, None], across[None]) * side * coarse).astype(int)
        count = side // 2 + 1  # up to Nyquist of the coarser spacing
        inside = ring < count
        sums = np.bincount(ring[inside], self.spectrum[inside], count)[1:]  # the polynomial took frequency 0 away
        return np.arange(1, count) / (side * coarse), sums / np.bincount(ring[inside], minlength=count)[1:]

    @property
    def frequency(self) -> NDArray[np.float64]:
        """[K] cycles per mm (per pixel with a spacing of 1) of ``radial``."""
        return self._rings[0]

    @property
    def radial(self) -> NDArray[np.float64]:
        """[K] mean over a ring of frequencies, of ``spectrum``'s unit."""
        return self._rings[1]

    @property
    def peak_frequency(self) -> float:
        """Where the radial spectrum is largest; NaN without noise."""
        return float(self.frequency[self.radial.argmax()]) if self.radial.any() else math.nan

    @property
    def mean_frequency(self) -> float:
        """Mean of the frequencies weighted by the radial spectrum (TG-233's f_av); NaN without noise."""
        total = float(self.radial.sum())
        return float((self.frequency * self.radial).sum()) / total if total > 0 else math.nan


def noise_power(pixels: Stack, squares: Squares, spacing: tuple[float, float] = (1.0, 1.0)) -> NoisePower:
    """Steps 2 and 3.

    Parameters
    ----------
    pixels : ndarray, shape (Z, H, W)
        In any unit, finite in the squares.
    squares : Squares
        At least one.
    spacing : tuple of float
        Of rows and columns, in mm. Default: per pixel.

    Raises
    ------
    ValueError
        If there is no square.
    """
    if not len(squares):
        raise ValueError("no region to measure noise in")
    side = squares.side
    power = np.abs(np.fft.fft2(detrended(squares.cut(pixels)))) ** 2
    return NoisePower(power.mean(0) * (spacing[0] * spacing[1] / side**2), spacing, len(squares))


def detrended(regions: NDArray[np.float64]) -> NDArray[np.float64]:
    """[n, side, side] less what a polynomial of second order says of each (least squares)."""
    flat = regions.reshape(len(regions), -1)
    basis = _polynomials(regions.shape[-1])
    return (flat - (flat @ basis) @ basis.T).reshape(regions.shape)


@lru_cache(maxsize=8)
def _polynomials(side: int) -> NDArray[np.float64]:
    """[side², 6] orthonormal: 1, y, x, y², yx, x²."""
    y, x = (axis.ravel() for axis in np.meshgrid(*[np.linspace(-1, 1, side)] * 2, indexing="ij"))
    return np.asarray(np.linalg.qr(np.stack([np.ones(side**2), y, x, y**2, y * x, x**2], axis=1))[0])
