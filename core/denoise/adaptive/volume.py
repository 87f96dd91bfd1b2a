"""A series as a volume: every slice also draws on up to three slices on either side.

Specification: methods/adaptive-denoise.md, section 6. All slices are on one intensity scale.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from .bilateral import accumulate
from .mixture import EPSILON, Preset, filtered, mix, weigh
from .noise_model import estimate

Array = NDArray[Any]
Shift = tuple[int, int]

REACH_SLICES = 3
"""Neighbours on either side."""
REACH_MM = 16.0
OWN, NEAR = 6, 4
"""Pixels: radius of the window in the slice itself, in its neighbours."""
LOW, ALLOWED = 3.0, 4.0
"""The lesion guard: pixels of its Gaussian; squared deviations that pass freely."""
RHO_FROM, RHO_MOST = 0.1, 0.7
"""Correlation of the noise is counted from the first on; neighbours above the second are left out."""


@dataclass(frozen=True, slots=True)
class SeriesHead:
    """A filter over several slices; ``denoised``: its guide is the slice-wise result instead of the noisy slice."""

    denoised: bool
    patch: int
    kappa: float

    @property
    def bias(self) -> float:
        return 0.0 if self.denoised else 1.0


SERIES_HEADS = (SeriesHead(True, 1, 0.8), SeriesHead(False, 2, 1.4), SeriesHead(False, 2, 2.0))


@dataclass(frozen=True, slots=True)
class Slice:
    """What the slices beside it need to know of a slice; all [H, W], float32.

    Parameters
    ----------
    x, level, flat, residual
        The slice, its noise level, where it is flat, and what the pilot removed there in levels.
    noise : ndarray
        Synthetic noise of the slice's model.
    guide, moved : ndarray
        The slice-wise mixture, and the same of x + EPSILON noise with the same weights.
    alone : ndarray
        The slice-wise result.
    low_noise : float
        Share of the noise that a Gaussian of LOW pixels leaves, by the model.
    """

    x: Array
    level: Array
    flat: Array
    residual: Array
    noise: Array
    guide: Array
    moved: Array
    alone: Array
    low_noise: float


def slicewise(x: Array, valid: Array | None, preset: Preset, seed: int = 0) -> Slice:
    """One slice [H, W] in [0, 1] on its own; section 2."""
    x = np.ascontiguousarray(x, np.float32)
    model = estimate(x, valid)
    noise = model.sample(np.random.default_rng(seed))
    planes = filtered(x, model.level)
    shifted_planes = filtered(x + np.float32(EPSILON) * noise, model.level)
    weights = weigh(x, model.level, planes, noise * (shifted_planes - planes) / EPSILON, preset.gamma)
    flat = model.flat if model.flat.any() else np.ones(x.shape, bool)
    low = float(np.std((gaussian_filter(noise, LOW) / model.level)[flat]))
    guide, moved = (weights * planes).sum(0), (weights * shifted_planes).sum(0)
    alone = mix(x, planes, weights, preset.keep)
    return Slice(x, model.level, flat, model.residual, noise, guide, moved, alone, low)


def shifted(a: Array, dy: int, dx: int) -> Array:
    """out[y, x] = a[y + dy, x + dx], edge pixels repeated."""
    if not dy and not dx:
        return a
    ys, xs = (np.clip(np.arange(n) + d, 0, n - 1) for n, d in zip(a.shape, (dy, dx), strict=True))
    return np.asarray(a[ys[:, None], xs[None]])


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Another slice as one slice sees it: shifted into place.

    Parameters
    ----------
    x, guide, low : ndarray, shape (H, W)
        The slice, its slice-wise result, and the slice behind the Gaussian of the lesion guard.
    half : ndarray, shape (H, W)
        Standard deviation of the two slices' difference over sqrt 2.
    rho : float
        Correlation of their noise, 0 where it does not count.
    move : ndarray, shape (H, W)
        What the slice's own noise brings here.
    weight, low_noise : float
    """

    x: Array
    guide: Array
    low: Array
    half: Array
    rho: float
    move: Array
    weight: float
    low_noise: float


def pair(own: Slice, other: Slice, shift: Shift = (0, 0)) -> Neighbour | None:
    """Step 1. What ``own`` needs to know of ``other``; None if its noise is (nearly) the same noise."""
    x, level, flat, residual, guide = (
        shifted(a, *shift) for a in (other.x, other.level, other.flat, other.residual, other.guide)
    )
    both = own.flat & flat
    if both.sum() < 500:
        both = own.flat
    p, q = own.residual[both], residual[both]
    rho = float((p * q).sum() / np.sqrt(max((p * p).sum() * (q * q).sum(), 1e-12)))
    if rho > RHO_MOST:
        return None
    rho = rho if rho > RHO_FROM else 0.0
    half = np.sqrt(np.maximum((own.level**2 + level**2) / 2 - rho * own.level * level, 1e-12))
    change = gaussian_filter(own.x - x, LOW)
    seen = float(np.median(np.abs(change / half)[both])) / 0.6745 / np.sqrt(2)
    weight = float(min(1.0, np.median((own.level / level)[both] ** 2)))
    return Neighbour(x, guide, gaussian_filter(x, LOW), half, rho, rho * level / own.level * own.noise, weight, seen)


def head_over(
    head: SeriesHead, own: Slice, neighbours: Sequence[Neighbour], low_noise: float, *, moved: bool
) -> tuple[Array, Array]:
    """Step 2. The filtered slice [H, W] and the share of the weight that lies in other slices."""
    x = own.x + np.float32(EPSILON) * own.noise if moved else own.x
    guide = (own.moved if moved else own.guide) if head.denoised else x
    low = gaussian_filter(x, LOW)
    out, total = np.array(x, np.float32), np.ones(x.shape, np.float32)
    # T = (low difference)^2 / (2 · 2 low_noise^2 half^2): half the squared deviation, free up to ALLOWED / 2
    sigma_low = np.sqrt(2) * low_noise
    accumulate(
        out, total, x, guide, guide, head.kappa * own.level, low, low, sigma_low * own.level, bias=head.bias,
        low_bias=ALLOWED / 2, radius=OWN, patch=head.patch, own=True,
    )  # fmt: skip
    inside = total.copy()
    for n in neighbours:
        there, there_low = n.x, n.low
        if moved and n.rho:
            there = n.x + np.float32(EPSILON) * n.move
            there_low = gaussian_filter(there, LOW)
        accumulate(
            out, total, there, guide, n.guide if head.denoised else there, head.kappa * n.half, low, there_low,
            sigma_low * n.half, bias=head.bias, low_bias=ALLOWED / 2, radius=NEAR, patch=head.patch, weight=n.weight,
        )  # fmt: skip
    return np.asarray(out / total), np.asarray(1 - inside / total)


@dataclass(frozen=True, slots=True)
class FromVolume:
    """A slice denoised with its neighbours: result and share of the weight in other slices [H, W], correlations."""

    result: Array
    from_neighbours: Array
    correlations: tuple[float, ...] = ()


def denoise_with(own: Slice, others: Sequence[tuple[Slice, Shift]], preset: Preset) -> FromVolume:
    """Step 3. ``others``: slices and where their pixel (0, 0) lies, in pixels of ``own``."""
    neighbours = [n for other, shift in others if (n := pair(own, other, shift)) is not None]
    if not neighbours:
        return FromVolume(own.alone, np.zeros_like(own.level))
    low_noise = min(min(n.low_noise for n in neighbours), 1.2 * own.low_noise)
    planes, passed = [own.guide], [own.noise * (own.moved - own.guide) / EPSILON]
    shares = [np.zeros_like(own.level)]
    for head in SERIES_HEADS:
        plane, share = head_over(head, own, neighbours, low_noise, moved=False)
        planes.append(plane)
        shares.append(share)
        passed.append(own.noise * (head_over(head, own, neighbours, low_noise, moved=True)[0] - plane) / EPSILON)
    stack = np.stack(planes)
    weights = weigh(own.x, own.level, stack, np.stack(passed), preset.gamma)
    share = np.asarray((weights * np.stack(shares)).sum(0))
    return FromVolume(mix(own.x, stack, weights, preset.keep), share, tuple(n.rho for n in neighbours))


@dataclass(frozen=True, slots=True)
class SliceGeometry:
    """Where the slices of a series lie.

    Parameters
    ----------
    positions : tuple of float
        mm along the normal of the slices.
    offsets : tuple of (float, float)
        Where each slice's pixel (0, 0) lies in its plane, in rows and columns: not constant with gantry tilt.
    """

    positions: tuple[float, ...]
    offsets: tuple[tuple[float, float], ...]

    def near(self, index: int, shape: tuple[int, int]) -> list[tuple[int, Shift]]:
        """The usable neighbours of a slice and their shifts in whole pixels; a position counts once."""
        order = sorted(range(len(self.positions)), key=lambda i: self.positions[i])
        at = order.index(index)
        beside = []
        for i in order[max(0, at - REACH_SLICES) : at + REACH_SLICES + 1]:
            dy, dx = (round(a - b) for a, b in zip(self.offsets[index], self.offsets[i], strict=True))
            close = abs(self.positions[i] - self.positions[index]) <= REACH_MM
            if i != index and close and max(abs(dy), abs(dx)) < min(shape) // 4:
                beside.append((i, (dy, dx)))
        return beside


def denoise_volume(
    x: Array, geometry: SliceGeometry, preset: Preset, valid: Array | None = None, seed: int = 0
) -> Iterator[tuple[int, FromVolume]]:
    """(index, result) for every slice of x [Z, H, W] in [0, 1], in order of position; a window of slices is held."""
    order = sorted(range(len(x)), key=lambda i: geometry.positions[i])
    rank = {index: k for k, index in enumerate(order)}
    ready: dict[int, Slice] = {}
    for i in order:
        beside = geometry.near(i, x.shape[-2:])
        wanted = [i, *(j for j, _ in beside)]
        ready = {
            j: ready[j] if j in ready else slicewise(x[j], None if valid is None else valid[j], preset, seed + rank[j])
            for j in wanted
        }
        yield i, denoise_with(ready[i], [(ready[j], shift) for j, shift in beside], preset)
