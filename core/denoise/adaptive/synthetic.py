"""Synthetic noise of level 1: of one autocovariance everywhere, or following a slice's own noise from place to place.

Specification: methods/adaptive-denoise.md, section 2 B, last paragraph.

An autocovariance is [2 LAGS + 1, 2 LAGS + 1] by lag in rows and columns, the lag 0 in the middle.
"""

from __future__ import annotations

import numpy as np
import scipy.fft
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Plane = NDArray[np.float32]
Mask = NDArray[np.bool_]
Lags = NDArray[np.float64]

BLOCK, STEP = 32, 8
"""Pixels: side of the blocks of the short-time Fourier filter; from block to block."""
OVERLAP = np.float32(BLOCK / STEP / 2)
"""Sum of the blocks' Hann windows at a pixel, along one axis."""
PRIOR = 0.25
"""Weight of the one autocovariance in every block; the block's own spectrum has its share of flat pixels."""
LEAST, MOST = 0.2, 5.0
"""What the pilot lacks at a frequency is made good by a factor between these."""
UNSEEN = 0.02
"""Frequencies with less than this share of the strongest one's power count as this strong for that factor."""
TINY = 1e-12


def stationary(correlation: Lags, shape: tuple[int, ...], rng: np.random.Generator) -> Plane:
    """Noise ``shape`` = (H, W) of one autocovariance, with the standard deviation 1 in this very sample."""
    h, w = shape
    white = rng.standard_normal((h, w)).astype(np.float32)
    gain = np.sqrt(_spectrum(correlation, h, w)).astype(np.float32)
    noise = scipy.fft.irfft2(scipy.fft.rfft2(white) * gain, s=(h, w))
    return np.asarray(noise / max(noise.std(), TINY), np.float32)


def following(residual: Plane, flat: Mask, raw: Lags, correlation: Lags, rng: np.random.Generator) -> Plane:
    """Noise [H, W] with the direction and the level that the residual has around every pixel.

    White noise through a short-time Fourier filter. The power of a block is
    (|FFT(window flat residual)|^2 gain + PRIOR sum(window^2) model) / (sum(flat window^2) + PRIOR sum(window^2)).

    Parameters
    ----------
    residual : ndarray, shape (H, W)
        What the pilot took out of the slice, in noise levels.
    flat : ndarray of bool, shape (H, W)
        Where it is noise.
    raw, correlation : ndarray
        Autocovariance of the residual, and of the noise; the gain is the ratio of their spectra.
    """
    h, w = residual.shape
    height, width = -(-h // STEP) * STEP + 2 * BLOCK, -(-w // STEP) * STEP + 2 * BLOCK
    around = ((BLOCK, height - h - BLOCK), (BLOCK, width - w - BLOCK))
    r = np.pad(residual * flat, around, mode="reflect")
    white = rng.standard_normal((height, width)).astype(np.float32)

    hann = np.hanning(BLOCK + 1)[:-1].astype(np.float32)
    window = np.sqrt(np.outer(hann, hann))
    prior = np.float32(PRIOR * hann.sum() ** 2)
    shares = _sums_in_blocks(np.pad(flat, around, mode="reflect").astype(np.float32), hann)  # weights: window^2
    model, seen = _spectrum(correlation, BLOCK, BLOCK), _spectrum(raw, BLOCK, BLOCK)
    gain = np.clip(model / np.maximum(seen, max(UNSEEN * seen.max(), TINY)), LEAST, MOST).astype(np.float32)
    model = (prior * model).astype(np.float32)

    noise = np.zeros((height, width), np.float32)
    for row, share in enumerate(shares):
        band = slice(row * STEP, row * STEP + BLOCK)
        spectra = scipy.fft.rfft2(_blocks(r[band]) * window)
        power = (spectra.real**2 + spectra.imag**2) * gain
        power = (power + model) / (share + prior)[:, None, None]
        filtered = scipy.fft.rfft2(_blocks(white[band]) * window) * np.sqrt(power)
        _add_blocks(noise[band], scipy.fft.irfft2(filtered, s=(BLOCK, BLOCK)) * window)
    return np.asarray(noise[BLOCK : BLOCK + h, BLOCK : BLOCK + w] / OVERLAP**2)


def _spectrum(correlation: Lags, h: int, w: int) -> NDArray[np.float64]:
    """Power [h, w // 2 + 1] of an autocovariance; its mean over the full plane is the variance."""
    lags = len(correlation) // 2
    plane, lag = np.zeros((h, w)), np.arange(-lags, lags + 1)
    np.add.at(plane, ((lag % h)[:, None], (lag % w)[None]), correlation)
    return np.asarray(np.maximum(scipy.fft.rfft2(plane).real, 0))


def _blocks(band: Plane) -> Plane:
    """View [blocks, BLOCK, BLOCK] of a band of rows [BLOCK, W]."""
    return sliding_window_view(band, BLOCK, axis=1)[:, ::STEP].transpose(1, 0, 2)


def _add_blocks(band: Plane, blocks: Plane) -> None:
    """Add blocks [blocks, BLOCK, BLOCK] to the band of rows [BLOCK, W] that they were cut from."""
    for start in range(0, BLOCK, STEP):
        columns = blocks[:, :, start : start + STEP].transpose(1, 0, 2).reshape(BLOCK, -1)
        band[:, start : start + columns.shape[1]] += columns


def _sums_in_blocks(plane: Plane, weights: Plane) -> Plane:
    """Sum over every block of a plane [blocks, blocks], weighted along rows and columns by ``weights`` [BLOCK]."""
    for _ in range(2):  # along the rows, then, transposed, along the columns
        plane = np.einsum("ijk,k->ji", sliding_window_view(plane, BLOCK, axis=0)[::STEP], weights)
    return plane
