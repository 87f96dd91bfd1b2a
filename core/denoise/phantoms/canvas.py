"""A fine grid to paint ellipses and textures on."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .phantom import FINE, fine_axis

Mask = NDArray[np.bool_]
AIR = -1000.0


class Canvas:
    """A slice on the fine grid, in mm, origin in the middle; starts as air.

    Parameters
    ----------
    side : int
        Pixels of the phantom.
    pixel_mm : float
    rng : Generator
        Of the textures and of whoever paints: the order of painting is part of the result.

    Attributes
    ----------
    hu : ndarray, shape (side * FINE, side * FINE), float32
    x, y : ndarray, shapes (1, side * FINE) and (side * FINE, 1), float32
    half : float
        Half the slice's width in mm.
    """

    def __init__(self, side: int, pixel_mm: float, rng: np.random.Generator) -> None:
        axis = fine_axis(side, pixel_mm)
        self.x, self.y = axis[None], axis[:, None]
        self.hu = np.full((len(axis), len(axis)), AIR, np.float32)
        self.side, self.pixel_mm, self.half, self.rng = side, pixel_mm, side * pixel_mm / 2, rng

    def ellipse(self, cx: float, cy: float, a: float, b: float, degrees: float = 0.0) -> Mask:
        """Where the ellipse with half axes ``a`` and ``b`` lies, turned by ``degrees``."""
        turn = math.radians(degrees)
        u = (self.x - cx) * math.cos(turn) + (self.y - cy) * math.sin(turn)
        v = -(self.x - cx) * math.sin(turn) + (self.y - cy) * math.cos(turn)
        return np.asarray((u / a) ** 2 + (v / b) ** 2 <= 1)

    def texture(self, correlation_mm: float, std: float) -> NDArray[np.float32]:
        """A Gaussian random field with a Gaussian spectrum, over the whole grid."""
        n, step = len(self.hu), self.pixel_mm / FINE
        f = np.hypot(np.fft.fftfreq(n, step)[:, None], np.fft.rfftfreq(n, step)[None])
        white = self.rng.standard_normal((n, n), np.float32)
        field = np.fft.irfft2(np.fft.rfft2(white) * np.exp(-((math.pi * f * correlation_mm) ** 2)), s=(n, n))
        return np.asarray(field * (std / field.std()), np.float32)

    def paint(self, mask: Mask, hu: float, std: float = 0.0, correlation_mm: float = 3.0) -> None:
        """Give ``mask`` one value, or a texture around it."""
        self.hu[mask] = hu + self.texture(correlation_mm, std)[mask] if std > 0 else hu
