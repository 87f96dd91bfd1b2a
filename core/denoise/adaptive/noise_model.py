"""Noise of a CT slice from the slice alone: how strong it is where, and how far it reaches from pixel to pixel.

Specification: methods/adaptive-denoise.md, section 2 B.

Model: n(i) = level(i) * u(i), u stationary Gaussian noise of variance 1 with the autocovariance ``correlation``.

1. Pilot: patch bilateral filter, range width = the level so far (start: ``noise_std(x, level=2)``), bias 1.
2. Flat places: the pilot's slope (Gaussian gradient, sigma 1) is below FLAT levels per pixel, no pixel clipped nearby.
3. Residual r = x - pilot. Level map: Gaussian mean (WIDTH) of r^2 over flat places, from further away where these are
   rare. Autocovariance of r / level over pairs of flat pixels (FFT), tapered, made symmetric.   (1-3 twice)
4. The pilot keeps some of the noise, so r lacks it, at low frequencies most. How much is tried out: the same
   measurement on pilot + synthetic noise of the model so far; the model's spectrum is multiplied by seen / seen again.
   (twice)
5. ``sample``: synthetic noise that also follows local direction and level (streaks): white noise through a short-time
   Fourier filter whose power is, block by block, that of r in its flat pixels times what step 4 found missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_gradient_magnitude, minimum_filter, zoom

from ..noise import noise_std
from .bilateral import patch_bilateral

Array = NDArray[Any]

LAGS = 12  # pixels: longest lag of the autocovariance
FLAT = 0.15  # noise levels per pixel
ENOUGH = 0.02  # share of flat pixels below which FLAT is raised by 1.3 again and again
WIDTH = 20.0  # pixels
ROUNDS = CORRECTIONS = 2
BLOCK, STEP, PRIOR = 32, 8, 0.25  # step 5: pixels, pixels, weight of the stationary model in blocks


@dataclass(frozen=True)
class NoiseModel:
    level: Array  # [H, W]
    correlation: Array  # [2 LAGS + 1, 2 LAGS + 1], 1 in the middle
    flat: Array  # [H, W] bool
    residual: Array  # [H, W] r / level
    raw: Array  # its autocovariance in flat places

    def stationary(self, rng: np.random.Generator) -> Array:
        """Synthetic noise [H, W] of the model."""
        h, w = self.level.shape
        white = rng.standard_normal((h, w)).astype(np.float32)
        n = np.fft.irfft2(np.fft.rfft2(white) * np.sqrt(_spectrum(self.correlation, h, w)).astype(np.float32), s=(h, w))
        return np.asarray(self.level * n / n.std(), np.float32)

    def sample(self, rng: np.random.Generator) -> Array:
        """Step 5. Synthetic noise [H, W] with the residual's own level and direction around every pixel."""
        h, w = self.level.shape
        height, width = -(-h // STEP) * STEP + 2 * BLOCK, -(-w // STEP) * STEP + 2 * BLOCK
        around = ((BLOCK, height - h - BLOCK), (BLOCK, width - w - BLOCK))
        m = np.pad(self.flat, around, mode="reflect").astype(np.float32)
        r = np.pad(self.residual * self.flat, around, mode="reflect").astype(np.float32)
        white = rng.standard_normal((height, width)).astype(np.float32)
        wave = np.sqrt(np.hanning(BLOCK + 1)[:-1]).astype(np.float32)
        window = np.outer(wave, wave)
        model, seen = _spectrum(self.correlation, BLOCK, BLOCK), _spectrum(self.raw, BLOCK, BLOCK)
        gain = np.clip(model / np.maximum(seen, max(0.02 * seen.max(), 1e-12)), 0.2, 5)
        out, norm = np.zeros((height, width), np.float32), np.zeros((height, width), np.float32)
        columns = np.arange(0, width - BLOCK + 1, STEP)
        prior = PRIOR * (window**2).sum()
        for y in range(0, height - BLOCK + 1, STEP):

            def cut(a: Array, y: int = y) -> Array:
                """[blocks, BLOCK, BLOCK], windowed."""
                blocks = np.lib.stride_tricks.sliding_window_view(a[y : y + BLOCK], BLOCK, axis=1)[:, columns]
                return blocks.transpose(1, 0, 2) * window

            share = (cut(m) * window).sum((1, 2))  # flat pixels, weighted by window^2
            power = np.abs(np.fft.rfft2(cut(r))) ** 2 * gain
            power = (power + prior * model) / (share + prior)[:, None, None]
            tiles = np.fft.irfft2(np.fft.rfft2(cut(white)) * np.sqrt(power), s=(BLOCK, BLOCK)).astype(np.float32)
            for tile, x in zip(tiles, columns, strict=True):
                out[y : y + BLOCK, x : x + BLOCK] += tile * window
                norm[y : y + BLOCK, x : x + BLOCK] += window**2
        noise = out / np.maximum(norm, 1e-6)
        return np.asarray(self.level * noise[BLOCK : BLOCK + h, BLOCK : BLOCK + w], np.float32)


def _spectrum(correlation: Array, h: int, w: int) -> Array:
    """Power [h, w // 2 + 1] of an autocovariance; its mean over the full plane is the variance."""
    k, i = np.zeros((h, w)), np.arange(-LAGS, LAGS + 1)
    np.add.at(k, ((i % h)[:, None], (i % w)[None]), correlation)
    return np.asarray(np.maximum(np.fft.rfft2(k).real, 0))


def _smooth(a: Array, sigma: float) -> Array:
    """Gaussian mean of wide reach, on a grid four times as coarse."""
    h, w = a.shape
    p = np.pad(a, ((0, -h % 4), (0, -w % 4)), mode="edge")
    small = p.reshape(p.shape[0] // 4, 4, p.shape[1] // 4, 4).mean((1, 3))
    return np.asarray(zoom(gaussian_filter(small, sigma / 4), 4, order=1, grid_mode=True, mode="nearest")[:h, :w])


def _level(r: Array, m: Array) -> Array:
    e = m * r * r
    prior = (_smooth(e, 4 * WIDTH) + 1e-3 * e.sum() / max(m.sum(), 1)) / (_smooth(m, 4 * WIDTH) + 1e-3)
    level = np.sqrt((_smooth(e, WIDTH) + 0.03 * prior) / (_smooth(m, WIDTH) + 0.03))
    return np.asarray(np.maximum(level, 1e-6), np.float32)


def _autocovariance(r: Array, m: Array) -> Array:
    """Mean product over the pairs of pixels with m = 1 at every lag; symmetric as the square is, tapered."""
    i = np.arange(-LAGS, LAGS + 1)
    shape = (r.shape[0] + LAGS, r.shape[1] + LAGS)
    c = np.fft.irfft2(np.abs(np.fft.rfft2(r * m, s=shape)) ** 2, s=shape)[i[:, None], i[None]]
    c /= np.maximum(np.fft.irfft2(np.abs(np.fft.rfft2(m, s=shape)) ** 2, s=shape)[i[:, None], i[None]], 1)
    c = c + c[::-1] + c[:, ::-1] + c[::-1, ::-1]
    d = np.hypot(i[:, None], i[None])
    return np.asarray((c + c.T) / 8 * np.where(d <= LAGS, 0.5 + 0.5 * np.cos(np.pi * d / (LAGS + 1)), 0))


def _pilot(x: Array, level: Array) -> tuple[Array, Array]:
    """The pilot and its slope in levels per pixel."""
    pilot = patch_bilateral(x, x, level, bias=1.0)
    return pilot, gaussian_gradient_magnitude(pilot, 1.0) / level


def estimate(x: Array, valid: Array | None = None, seed: int = 0) -> NoiseModel:
    """``x`` [H, W] float32 in [0, 1]; pixels at 0 or 1 count as clipped."""
    usable = (x > 1e-6) & (x < 1 - 1e-6)
    usable = minimum_filter(usable if valid is None else usable & valid, 5)
    rng = np.random.default_rng(seed)
    level = np.full(x.shape, max(noise_std(x, valid, level=2), 1e-5), np.float32)
    for _ in range(ROUNDS):
        pilot, slope = _pilot(x, level)
        limit = FLAT
        flat = usable & (slope < limit)
        while flat.mean() <= ENOUGH and limit < 10:
            limit *= 1.3
            flat = usable & (slope < limit)
        level = _level(x - pilot, flat.astype(np.float32))
    base, m = level, flat.astype(np.float32)
    raw = _autocovariance((x - pilot) / base, m)

    def model(c: Array) -> NoiseModel:
        v = c[LAGS, LAGS]
        level = base * np.float32(np.sqrt(v))
        share = float((base**2 * m).sum() / (level**2 * m).sum()) if m.any() else 1.0
        return NoiseModel(level, c / v, flat, (x - pilot) / level, raw * share)

    def power(c: Array) -> Array:
        return np.asarray(np.maximum(np.fft.rfft2(np.fft.ifftshift(c)).real, 0))

    if not raw[LAGS, LAGS] > 0:  # no noise to be seen
        middle = np.zeros_like(raw)
        middle[LAGS, LAGS] = 1
        return model(middle)
    current = model(raw / raw[LAGS, LAGS])
    for _ in range(CORRECTIONS):
        again = pilot + current.stationary(rng)
        second, slope = _pilot(again, base)
        seen = power(_autocovariance((again - second) / base, (usable & (slope < limit)).astype(np.float32)))
        gain = np.clip(power(raw) / np.maximum(seen, 1e-3 * power(raw).max()), 0.25, 4)
        scale = float((current.level / base).mean()) ** 2
        c = np.fft.fftshift(np.fft.irfft2(power(current.correlation) * scale * gain, s=raw.shape))
        current = model((c + c[::-1, ::-1] + c.T + c.T[::-1, ::-1]) / 4)
    return current
