"""Noise of a CT slice from the slice alone: how strong it is where, and how far it reaches from pixel to pixel.

Specification: methods/adaptive-denoise.md, section 2 B.

Model: n(i) = level(i) u(i); u is stationary Gaussian noise of variance 1 with the autocovariance ``correlation``.

1. ``_pilot``: patch bilateral filter, range width = the level so far (start: ``noise_std(x, level=2)``), bias 1.
2. ``_flat``: where the pilot's slope is below FLAT levels per pixel and no pixel nearby is clipped or padding.
3. ``_level``: Gaussian mean of r^2, r = x - pilot, over flat pixels, from further away where these are rare.
   Steps 1 to 3 twice; then ``_autocovariance`` of r / level over pairs of flat pixels.
4. ``estimate``: the pilot keeps some of the noise, so r lacks it, at low frequencies most. How much is tried out: the
   same measurement on pilot + synthetic noise of the model so far; the model's spectrum is multiplied by
   seen / seen again. Twice.
5. ``NoiseModel.sample``: synthetic noise that follows local direction and level too (streaks).

All lengths are in pixels, whatever their shape. On phantoms with pixels 2 and 4 times as high as wide, a level map
whose Gaussian is round in millimetres changed the result by under 0.01 dB in the mean; what matters is that the noise
of oblong pixels is not the same along rows and columns, so that its correlation is not made so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_gradient_magnitude, minimum_filter

from ..noise import noise_std
from . import synthetic
from .bilateral import patch_bilateral

Plane = NDArray[np.float32]
Mask = NDArray[np.bool_]
Lags = NDArray[np.float64]

CLIPPED = 1e-6
"""Pixels this near to 0 or 1 count as clipped."""
NEARBY = 5
"""Pixels a side of the square without a clipped or padding pixel around a flat pixel."""
FLAT, STEEPEST, STEEPER, ENOUGH = 0.15, 10.0, 1.3, 0.02
"""Slope of flat pixels in noise levels per pixel; raised by STEEPER, up to STEEPEST, until ENOUGH of the pixels are."""
WIDTH, WIDER = 20.0, 80.0
"""Pixels: Gaussians of the level map, and of the level that counts where flat pixels are rare."""
RARE, RARER = 0.03, 1e-3
"""Shares of flat pixels around a pixel that the wider mean, and the mean of the whole slice, count as."""
FAINTEST = 1e-6
"""The lowest level that step 3 finds: some roundings of float32 in [0, 1]."""
COARSE = 4
"""The level map is averaged on a grid so many times as coarse."""
LAGS = 12
"""Pixels: longest lag of the autocovariance."""
SQUARE = 0.01
"""Pixels whose height over width is this near to 1 are square."""
ROUNDS = CORRECTIONS = 2
"""Rounds of steps 1 to 3 and of step 4."""
LEAST, MOST = 0.25, 4.0
"""A round of step 4 changes the power at a frequency by a factor between these."""
UNSEEN = 1e-3
"""Frequencies with less than this share of the strongest one's power count as this strong for that factor."""


@dataclass(frozen=True, slots=True)
class NoiseModel:
    """The noise of one slice.

    How right it is, on generated noise as a CT reconstruction leaves it (a ramp, cut off smoothly) and on noise of a
    Gaussian of up to 0.6 pixels, 256 x 256: the level to 3 % where it is the same everywhere, to 10 % in the root mean
    square where it rises from 1 to 3 across the slice (the Gaussian of the level map blurs it: 22 % in the corners),
    the correlation to 0.05 at every lag. Noise that reaches further is taken for structure in part: the level is too
    low, by 16 % for a Gaussian of 1 pixel and by half for 1.4 (slices interpolated to small pixels; 6 to 20 % too low
    on phantoms of a smooth kernel). So it is near edges.

    Parameters
    ----------
    level : ndarray, shape (H, W), float32
        Standard deviation of the noise, in units of the slice; above 0.
    correlation : ndarray, shape (2 LAGS + 1, 2 LAGS + 1), float64
        Autocovariance of noise / level by lag in rows and columns; 1 in the middle.
    flat : ndarray, shape (H, W), bool
        Where the slice has no edge, no clipped pixel and no padding nearby: where the noise was measured.
    residual : ndarray, shape (H, W), float32
        What the pilot removed from the slice, in levels.
    raw : ndarray, shape (2 LAGS + 1, 2 LAGS + 1), float64
        Autocovariance of ``residual`` over pairs of flat pixels: ``correlation`` less what the pilot keeps.
    pilot_level : ndarray, shape (H, W), float32
        Range width of the pilot.
    """

    level: Plane
    correlation: Lags
    flat: Mask
    residual: Plane
    raw: Lags
    pilot_level: Plane

    def seen_in(self, x: NDArray[Any], valid: Mask | None = None) -> NoiseModel:
        """The same noise in another slice: level and correlation stay, ``flat`` and ``residual`` are the other's.

        Parameters
        ----------
        x : ndarray, shape (H, W)
            The other slice, in the same units; for the slice of the model the model comes out as it is.
        valid : ndarray of bool, shape (H, W), optional

        Raises
        ------
        ValueError
            If the slice or its mask has another shape than the model's, or the slice holds NaN or infinity.
        """
        x, usable = _checked(x, valid)
        if x.shape != self.level.shape:
            raise ValueError(f"the noise model is of a slice {self.level.shape}, this slice is {x.shape}")
        pilot, slope = _pilot(x, self.pilot_level)
        flat, _ = _flat(usable, slope)
        return replace(self, flat=flat, residual=(x - pilot) / self.level)

    def stationary(self, rng: np.random.Generator) -> Plane:
        """Synthetic noise [H, W] of the model."""
        return self.level * synthetic.stationary(self.correlation, self.level.shape, rng)

    def sample(self, rng: np.random.Generator) -> Plane:
        """Step 5. Synthetic noise [H, W] with the residual's own level and direction around every pixel."""
        return self.level * synthetic.following(self.residual, self.flat, self.raw, self.correlation, rng)


def _checked(x: NDArray[Any], valid: Mask | None) -> tuple[Plane, Mask]:
    """The slice as float32, and the pixels without a clipped or padding pixel nearby."""
    if x.ndim != 2 or not x.size:
        raise ValueError(f"expected a slice [H, W], got shape {x.shape}")
    if valid is not None and valid.shape != x.shape:
        raise ValueError(f"the slice is {x.shape}, its mask of valid pixels {valid.shape}: both must be the same")
    x = np.ascontiguousarray(x, np.float32)
    if not np.isfinite(x).all():
        raise ValueError("the slice holds NaN or infinity; fill it where it is padding")
    usable = (x > CLIPPED) & (x < 1 - CLIPPED)
    return x, minimum_filter(usable if valid is None else usable & valid, NEARBY)


def _pilot(x: Plane, level: Plane) -> tuple[Plane, Plane]:
    """Step 1. The pilot, and its slope in levels per pixel."""
    pilot = patch_bilateral(x, x, level, bias=1.0)
    return pilot, gaussian_gradient_magnitude(pilot, 1.0) / level


def _flat(usable: Mask, slope: Plane) -> tuple[Mask, float]:
    """Step 2. The flat pixels, and the slope below which they are."""
    limit = FLAT
    flat = usable & (slope < limit)
    while flat.mean() <= ENOUGH and limit < STEEPEST:
        limit *= STEEPER
        flat = usable & (slope < limit)
    return flat, limit


def _level(r: Plane, flat: Plane) -> Plane:
    """Step 3. Root of the mean of r^2 over flat pixels."""
    power = flat * r * r
    whole = float(power.sum()) / max(float(flat.sum()), 1)
    power, share = _coarse(power), _coarse(flat)

    def smooth(a: Plane, sigma: float) -> Plane:
        return _fine(gaussian_filter(a, sigma / COARSE), r.shape)

    far = (smooth(power, WIDER) + RARER * whole) / (smooth(share, WIDER) + RARER)
    near = (smooth(power, WIDTH) + RARE * far) / (smooth(share, WIDTH) + RARE)
    return np.asarray(np.maximum(np.sqrt(near), FAINTEST), np.float32)


def _coarse(a: Plane) -> Plane:
    """Means of squares of COARSE x COARSE pixels; edge pixels count again where one is not full."""
    h, w = a.shape
    p = np.pad(a, ((0, -h % COARSE), (0, -w % COARSE)), mode="edge")
    return np.asarray(p.reshape(p.shape[0] // COARSE, COARSE, p.shape[1] // COARSE, COARSE).mean((1, 3)))


def _fine(a: Plane, shape: tuple[int, ...]) -> Plane:
    """The plane ``shape`` = (H, W) of a coarse one, linear between the middles of its pixels."""
    places = (np.arange(COARSE, dtype=np.float32) + 0.5) / COARSE - 0.5  # of fine pixels, in coarse ones
    for _ in range(2):  # along the columns, then, transposed, along the rows
        before, after = np.concatenate([a[:1], a[:-1]]), np.concatenate([a[1:], a[-1:]])
        between = [a + abs(place) * ((before if place < 0 else after) - a) for place in places]
        a = np.stack(between, axis=1).reshape(-1, a.shape[1]).T
    return np.ascontiguousarray(a[: shape[0], : shape[1]])


def _autocovariance(r: Plane, flat: Plane, square: bool) -> Lags:
    """Step 3. Mean product over the pairs of flat pixels at every lag; symmetric as a pixel is, tapered."""
    i = np.arange(-LAGS, LAGS + 1)
    shape = [scipy.fft.next_fast_len(n + LAGS, real=True) for n in r.shape]  # no lag meets itself around the border

    def products(a: Plane) -> Lags:
        f = scipy.fft.rfft2(a, s=shape)
        around = scipy.fft.irfft2(f.real**2 + f.imag**2, s=shape)
        return np.asarray(around[i[:, None], i[None]], np.float64)

    distance = np.hypot(i[:, None], i[None])
    taper = np.where(distance <= LAGS, 0.5 + 0.5 * np.cos(np.pi * distance / (LAGS + 1)), 0)
    return _symmetric(products(r * flat) / np.maximum(products(flat), 1), square) * taper


def _symmetric(c: Lags, square: bool) -> Lags:
    """The mean over the mirror images of a pixel: four, and eight of a square one."""
    c = (c + c[::-1] + c[:, ::-1] + c[::-1, ::-1]) / 4
    return (c + c.T) / 2 if square else c


def estimate(x: NDArray[Any], valid: Mask | None = None, seed: int = 0, aspect: float = 1.0) -> NoiseModel:
    """The noise of one slice; steps 1 to 4.

    Parameters
    ----------
    x : ndarray, shape (H, W)
        The slice in [0, 1], any float dtype, finite; pixels at 0 or 1 count as clipped.
    valid : ndarray of bool, shape (H, W), optional
        False marks pixel padding, which has no part in level and correlation. Windows of the pilot reach it all the
        same: fill it first (`padding.filled`).
    seed : int
        Of the synthetic noise of step 4.
    aspect : float
        Height of a pixel over its width.

    Returns
    -------
    NoiseModel
        Of the level FAINTEST and uncorrelated where there is no noise to be seen.

    Raises
    ------
    ValueError
        If the shapes do not fit, the slice holds NaN or infinity, or the aspect is no positive number.
    """
    if not 0 < aspect < math.inf:
        raise ValueError(f"aspect must be a positive number, got {aspect}")
    x, usable = _checked(x, valid)
    square = abs(aspect - 1) <= SQUARE
    rng = np.random.default_rng(seed)
    level = np.full(x.shape, max(noise_std(x, valid, level=2), 10 * FAINTEST), np.float32)
    for _ in range(ROUNDS):
        pilot_level = level
        pilot, slope = _pilot(x, pilot_level)
        flat, limit = _flat(usable, slope)
        level = _level(x - pilot, flat.astype(np.float32))
    raw = _autocovariance((x - pilot) / level, flat.astype(np.float32), square)

    def model(c: Lags) -> NoiseModel:
        variance = c[LAGS, LAGS]
        right = level * np.float32(np.sqrt(variance))
        return NoiseModel(right, c / variance, flat, (x - pilot) / right, raw / variance, pilot_level)

    def power(c: Lags) -> NDArray[np.float64]:
        return np.asarray(np.maximum(scipy.fft.rfft2(scipy.fft.ifftshift(c)).real, 0))

    if not raw[LAGS, LAGS] > 0:  # no noise to be seen
        alone = np.zeros_like(raw)
        alone[LAGS, LAGS] = 1
        return model(alone)
    current = model(raw / raw[LAGS, LAGS])
    for _ in range(CORRECTIONS):
        again = pilot + current.stationary(rng)
        second, slope = _pilot(again, level)
        still_flat = (usable & (slope < limit)).astype(np.float32)
        seen = power(_autocovariance((again - second) / level, still_flat, square))
        gain = np.clip(power(raw) / np.maximum(seen, UNSEEN * power(raw).max()), LEAST, MOST)
        variance = float((current.level / level).mean()) ** 2
        c = scipy.fft.fftshift(scipy.fft.irfft2(power(current.correlation) * variance * gain, s=raw.shape))
        current = model(_symmetric(c, square))
    return current
