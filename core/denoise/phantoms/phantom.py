"""What a phantom is: its noise-free truth, and what a physicist can measure on it.

Specification: methods/adaptive-denoise.md, section 5. A phantom is drawn on a grid `FINE` times as fine, averaged down
(so that edges are anti-aliased) and multiplied in the Fourier domain by the Hann window of a reconstruction kernel:
that is what a scan without noise would show.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.floating[Any]]

KINDS = ("abdomen", "chest", "head", "inserts")
"""What can be drawn. The position is part of the seed: append, never sort."""

KERNELS = {"smooth": 0.5, "standard": 0.7, "sharp": 1.0}
"""Reconstruction kernels: cycles per mm at which their Hann window ends."""

FINE = 3
"""So many times finer than a pixel is what is drawn, along each side."""

LEAST_HU = -1024.0
"""What a CT file stores at least; the kernel's ringing may pass below air."""


@dataclass(frozen=True, slots=True)
class Insert:
    """A disc of one value, or a rod along the slices' axis, on an even background.

    Parameters
    ----------
    row, column : float
        Its centre in pixels: 0 is the middle of the first pixel.
    radius : float
        In pixels.
    contrast : float
        Its value minus the background's, in HU.
    """

    row: float
    column: float
    radius: float
    contrast: float


@dataclass(frozen=True, slots=True)
class Phantom:
    """A noise-free CT slice or series, and what can be measured on it.

    Parameters
    ----------
    kind : str
        One of `KINDS`, or ``"lesions"``.
    seed : int
    truth : ndarray, shape (Z, H, W), float32
        In HU, as the reconstruction kernel blurs it.
    pixel_mm : float
        Side of a pixel.
    cutoff_per_mm : float
        Cycles per mm at which the kernel's Hann window ends.
    positions_mm : tuple of float
        Middle of each slice along the slices' axis.
    thickness_mm : float
        Of a slice; 0 for a phantom that does not change along the axis.
    inserts : tuple of Insert
        Of low contrast, each the same in every slice. Empty for kinds other than ``"inserts"``.
    rods : tuple of Insert
        Of high contrast, for the response at an edge.
    uniform : Insert or None
        The largest disc without any structure, of contrast 0.
    """

    kind: str
    seed: int
    truth: NDArray[np.float32]
    pixel_mm: float
    cutoff_per_mm: float
    positions_mm: tuple[float, ...] = (0.0,)
    thickness_mm: float = 0.0
    inserts: tuple[Insert, ...] = ()
    rods: tuple[Insert, ...] = ()
    uniform: Insert | None = None


def check_name(kind: str, seed: int) -> None:
    """``ValueError`` unless there is such a phantom."""
    if kind not in KINDS:
        raise ValueError(f"no phantom {kind!r}: there are {', '.join(KINDS)}")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")


def check_geometry(side: int, **positive: float) -> None:
    """``ValueError`` unless a phantom can be drawn at this size."""
    if side < 16:
        raise ValueError(f"side must be at least 16 pixels, got {side}")
    for name, value in positive.items():
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} must be positive and finite, got {value}")


def fine_axis(side: int, pixel_mm: float) -> NDArray[np.float32]:
    """[side * FINE] positions of the fine grid in mm, 0 in the middle of the slice."""
    return np.asarray(((np.arange(side * FINE) + 0.5) / FINE - side / 2) * pixel_mm, np.float32)


def disc(x_mm: float, y_mm: float, radius_mm: float, contrast: float, *, side: int, pixel_mm: float) -> Insert:
    """What was drawn at a place in mm, in pixels."""
    row, column = (at / pixel_mm + side / 2 - 0.5 for at in (y_mm, x_mm))
    return Insert(row, column, radius_mm / pixel_mm, contrast)


def averaged(fine: Image) -> Image:
    """[side * FINE, side * FINE] -> [side, side]: the mean over each pixel."""
    side = len(fine) // FINE
    mean: Image = fine.reshape(side, FINE, side, FINE).mean((1, 3))
    return mean


def kernel_blur(hu: Image, pixel_mm: float, cutoff_per_mm: float) -> NDArray[np.float32]:
    """[H, W] in HU as a kernel shows it, whose Hann window ends at ``cutoff_per_mm``; never below `LEAST_HU`."""
    pad = 16  # the window's impulse response has died down there
    wide = np.pad(hu, pad, mode="edge")
    down, across = np.fft.fftfreq(wide.shape[0], pixel_mm), np.fft.rfftfreq(wide.shape[1], pixel_mm)
    f = np.hypot(down[:, None], across[None])  # cycles per mm
    window = np.where(f < cutoff_per_mm, 0.5 + 0.5 * np.cos(np.pi * f / cutoff_per_mm), 0)
    blurred = np.fft.irfft2(np.fft.rfft2(wide) * window, s=wide.shape)
    return np.maximum(blurred[pad:-pad, pad:-pad], LEAST_HU).astype(np.float32)


def even_disc(truth: NDArray[np.float32], background: float, tolerance_hu: float = 0.5) -> Insert | None:
    """The largest disc that is nothing but ``background`` in every slice of ``truth`` [Z, H, W]; None where none is."""
    from scipy.ndimage import distance_transform_edt

    reach = distance_transform_edt((np.abs(truth - background) <= tolerance_hu).all(0))  # to the nearest other pixel
    row, column = np.unravel_index(int(np.argmax(reach)), reach.shape)
    radius = float(reach[row, column]) - 1
    return Insert(float(row), float(column), radius, 0.0) if radius >= 1 else None
