"""What neighbouring slices of a series know of each other: where they lie, what noise they share, how they differ.

Specification: methods/adaptive-denoise.md, section 6, step 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from ...io.place import SAME_MM
from .mixture import EPSILON
from .noise_model import NoiseModel

Array = NDArray[Any]
Shift = tuple[int, int]

REACH_SLICES = 3
"""Neighbours on either side."""
REACH_MM = 16.0
LOW = 3.0
"""The lesion guard: pixels of its Gaussian."""
RHO_FROM, RHO_MOST = 0.1, 0.7
"""Correlation of the noise is counted from the first on; neighbours above the second are left out."""
LEAST = 0.1
"""Of a neighbour's weight: one whose noise is more than three times the slice's is left out, since pixels are compared
within the noise of both and would be taken for alike. The specification keeps it; on series whose noise goes up and
down fourfold and eightfold the quiet slices then gain 0.1 to 0.2 dB less (development half)."""
ENOUGH = 500
"""Pixels flat in both slices, below which all flat pixels of the slice itself serve."""
UNLIKE = np.float32(1e6)
"""Of intensities in [0, 1]: no pixel agrees with it, so that the lesion guard gives it no weight."""


@dataclass(frozen=True, slots=True)
class Slice:
    """A slice denoised on its own, and what the slices beside it need to know of it.

    All planes are [H, W]: nine of float32 (ten with a strength) and two of bool, 10 MB at 512 x 512.

    Parameters
    ----------
    x, level : ndarray, float32
        The slice in [0, 1] and its noise level.
    flat : ndarray, bool
    residual : ndarray, float32
        What the noise model's pilot removed, in levels; noise alone where the slice is ``flat``.
    noise : ndarray, float32
        Synthetic noise of the slice's model.
    guide, moved : ndarray, float32
        The slice-wise mixture, and the same of x + EPSILON noise with the same weights.
    edited : ndarray, float32
        The slice-wise mixture with the user's strength; ``guide`` itself at strength 1.
    alone : ndarray, float32
        The slice-wise result.
    low : ndarray, float32
        The slice behind the Gaussian of the lesion guard.
    low_noise : float
        Share of the noise that this Gaussian leaves, by the model.
    model : NoiseModel
        Its noise, or that of the slice whose noise was taken for it.
    shares : tuple of float
        Mean weight of every head in the slice-wise mixture.
    valid : ndarray of bool, or None
        False where pixels are padding.
    strength : float or ndarray
        Factor on the range widths.
    aspect : float
        Height of a pixel over its width.
    """

    x: Array
    level: Array
    flat: Array
    residual: Array
    noise: Array
    guide: Array
    moved: Array
    edited: Array
    alone: Array
    low: Array
    low_noise: float
    model: NoiseModel
    shares: tuple[float, ...]
    valid: Array | None = None
    strength: Any = 1.0
    aspect: float = 1.0


def smoothed(a: Array, aspect: float) -> Array:
    """``a`` [H, W] behind the Gaussian of the lesion guard: as far down as across in mm, LOW pixels in the mean."""
    return np.asarray(gaussian_filter(a, (LOW * aspect**-0.5, LOW * aspect**0.5)))


def shifted(a: Array, dy: int, dx: int) -> Array:
    """out[y, x] = a[y + dy, x + dx], edge pixels repeated."""
    if not dy and not dx:
        return a
    ys, xs = (np.clip(np.arange(n) + d, 0, n - 1) for n, d in zip(a.shape, (dy, dx), strict=True))
    return np.asarray(a[ys[:, None], xs[None]])


def shifted_valid(other: Slice, dy: int, dx: int) -> Array | None:
    """Where a shifted slice shows what was measured: neither padding nor a repeated edge; None: everywhere."""
    valid = None if other.valid is None else shifted(other.valid, dy, dx)
    if not dy and not dx:
        return valid
    ys, xs = ((np.arange(n) + d >= 0) & (np.arange(n) + d < n) for n, d in zip(other.x.shape, (dy, dx), strict=True))
    inside: Array = np.logical_and(ys[:, None], xs[None])
    return inside if valid is None else inside & valid


@dataclass(frozen=True, slots=True)
class View:
    """What a series head looks at of one slice [H, W]: its pixels, its slice-wise mixture, its pixels smoothed."""

    x: Array
    guide: Array
    low: Array


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Another slice as one slice sees it: shifted into place.

    Parameters
    ----------
    still, moved : View
        The slice, and the same with what a small step of the seeing slice's noise brings here; one object where the
        noise of the two is independent.
    half : ndarray, shape (H, W)
        Standard deviation of the two slices' difference over sqrt 2.
    rho : float
        Correlation of their noise, 0 where it does not count.
    weight : float
    low_noise : float
        Share of the noise that the lesion guard's Gaussian leaves, measured on the difference of the two slices.
    """

    still: View
    moved: View
    half: Array
    rho: float
    weight: float
    low_noise: float


def pair(own: Slice, other: Slice, shift: Shift = (0, 0)) -> Neighbour | None:
    """Step 1. What ``own`` needs to know of ``other``.

    None if its noise is (nearly) the same noise, or over three times as strong, or where it has padding alone.

    Raises
    ------
    ValueError
        If the slices differ in size.
    """
    if other.x.shape != own.x.shape:
        raise ValueError(f"a slice of {other.x.shape} pixels is no neighbour of one of {own.x.shape}")
    valid = shifted_valid(other, *shift)
    x, level, flat, residual, guide, low = (
        shifted(a, *shift) for a in (other.x, other.level, other.flat, other.residual, other.guide, other.low)
    )
    place = own.flat if valid is None else own.flat & valid
    both = place & flat
    if both.sum() < ENOUGH:
        both = place
    if not both.any():
        return None
    p, q = own.residual[both], residual[both]
    rho = float((p * q).sum() / np.sqrt(max((p * p).sum() * (q * q).sum(), 1e-12)))
    if rho > RHO_MOST:
        return None
    weight = float(min(1.0, np.median((own.level / level)[both] ** 2)))
    if weight < LEAST:
        return None
    rho = rho if rho > RHO_FROM else 0.0
    half = np.sqrt(np.maximum((own.level**2 + level**2) / 2 - rho * own.level * level, 1e-12))
    low_noise = float(np.median(np.abs((own.low - low) / half)[both])) / 0.6745 / 2**0.5
    step = np.float32(EPSILON * rho) * level / own.level * own.noise if rho else None
    low_step = None if step is None else smoothed(step, own.aspect)
    if valid is not None:
        low = np.where(valid, low, UNLIKE)
    still = View(x, guide, low)
    moved = still if step is None else View(x + step, guide, low + low_step)
    return Neighbour(still, moved, half, rho, weight, low_noise)


@dataclass(frozen=True, slots=True)
class SliceGeometry:
    """Where the slices of a series lie.

    Parameters
    ----------
    positions : tuple of float
        mm along the normal of the slices.
    offsets : tuple of (float, float)
        Where each slice's pixel (0, 0) lies in its plane, in rows and columns: not constant with gantry tilt.
    keys : tuple of str, optional
        What tells slices at one position apart whatever the order of the files, such as a UID or a name; the smallest
        is the neighbour of others. Without keys it is the first of them.
    """

    positions: tuple[float, ...]
    offsets: tuple[tuple[float, float], ...]
    keys: tuple[str, ...] = ()

    def order(self) -> list[int]:
        """All slices by position, then key."""
        keys = self.keys or ("",) * len(self.positions)
        return sorted(range(len(self.positions)), key=lambda i: (self.positions[i], keys[i], i))

    def near(self, index: int, shape: tuple[int, int]) -> list[tuple[int, Shift]]:
        """The usable neighbours of a slice and their shifts in whole pixels, by position; a position counts once."""
        keys = self.keys or ("",) * len(self.positions)
        places: list[list[int]] = []
        for i in self.order():
            if places and self.positions[i] - self.positions[places[-1][0]] < SAME_MM:
                places[-1].append(i)
            else:
                places.append([i])
        at = next(k for k, place in enumerate(places) if index in place)
        beside = []
        for k in range(max(0, at - REACH_SLICES), min(len(places), at + REACH_SLICES + 1)):
            i = min(places[k], key=lambda j: (keys[j], j))
            dy, dx = (round(a - b) for a, b in zip(self.offsets[index], self.offsets[i], strict=True))
            close = abs(self.positions[i] - self.positions[index]) <= REACH_MM
            if k != at and close and max(abs(dy), abs(dx)) < min(shape) // 4:
                beside.append((i, (dy, dx)))
        return beside
