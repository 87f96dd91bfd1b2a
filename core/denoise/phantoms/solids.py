"""Solids that run through the slices of a series, their textures, and thick sections through them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .canvas import AIR, Mask
from .phantom import FINE, Image, averaged, fine_axis

SECTIONS = 3
"""A slice is the mean of so many sections through its thickness."""
FOLD = 0.9
"""Above this level of a texture a fold begins."""

Box = tuple[slice, slice]


@dataclass(frozen=True, slots=True)
class Solid:
    """An ellipsoid, or a cylinder that may lean and end. Lengths in mm.

    Parameters
    ----------
    cx, cy : float
        Centre of its section at height ``cz``.
    a, b : float
        Half axes of the section there.
    turn : float
        Degrees by which the section is turned.
    cz, c : float
        Middle and half height along the slices' axis; without ``c`` it has no ends.
    tx, ty : float
        By how many mm it moves sideways per mm of height.
    flat : bool
        The ends are flat; else round.
    """

    cx: float
    cy: float
    a: float
    b: float
    turn: float = 0.0
    cz: float = 0.0
    c: float = math.inf
    tx: float = 0.0
    ty: float = 0.0
    flat: bool = False

    def section(self, x: NDArray[np.float32], y: NDArray[np.float32], z: float) -> tuple[Box, Mask] | None:
        """Its section at height ``z`` on the grid ``x`` [1, N], ``y`` [N, 1]: a box and what of it is in."""
        dz = z - self.cz
        shrink = 1.0
        if math.isfinite(self.c):
            if abs(dz) >= self.c:
                return None
            shrink = 1.0 if self.flat else math.sqrt(1 - (dz / self.c) ** 2)
        turn = math.radians(self.turn)
        x0, y0 = self.cx + self.tx * dz, self.cy + self.ty * dz
        reach = max(self.a, self.b) * shrink + 1
        rows, columns = np.flatnonzero(np.abs(y[:, 0] - y0) <= reach), np.flatnonzero(np.abs(x[0] - x0) <= reach)
        if not len(rows) or not len(columns):
            return None
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        dx, dy = x[:, box[1]] - x0, y[box[0]] - y0
        u, v = dx * math.cos(turn) + dy * math.sin(turn), -dx * math.sin(turn) + dy * math.cos(turn)
        return box, np.asarray((u / (self.a * shrink)) ** 2 + (v / (self.b * shrink)) ** 2 <= 1)


@dataclass(frozen=True, slots=True)
class Texture:
    """A Gaussian field through all slices: ``name`` is its seed, ``mm`` its correlation, ``std`` in HU.

    ``fold``: instead of its values, this value in HU where the field is high (the sulci of a brain).
    """

    name: int
    mm: float
    std: float
    fold: float | None = None


@dataclass(frozen=True, slots=True)
class Painted:
    """A solid of one value, or of a texture around it, in HU; ``clip``: only inside this other solid."""

    solid: Solid
    hu: float
    texture: Texture | None = None
    clip: Solid | None = None


class Painter:
    """Draws sections of a scene on the fine grid.

    Parameters
    ----------
    side : int
        Pixels of the phantom.
    pixel_mm : float
    seed : int
        Of the textures.
    """

    def __init__(self, side: int, pixel_mm: float, seed: int) -> None:
        axis = fine_axis(side, pixel_mm)
        self.x, self.y = axis[None], axis[:, None]
        self._seed, self._shape = seed, (len(axis), len(axis))
        down, across = np.fft.fftfreq(len(axis), pixel_mm / FINE), np.fft.rfftfreq(len(axis), pixel_mm / FINE)
        self._whole, self._half = (np.hypot(down[:, None], row[None]) for row in (down, across))  # cycles per mm
        self._spectra: dict[float, tuple[Image, float]] = {}
        self._fields: dict[tuple[int, float], NDArray[np.float32]] = {}

    def slice(self, scene: Sequence[Painted], z: float, thickness_mm: float) -> Image:
        """[side, side] in HU: the mean of `SECTIONS` sections through the slice at height ``z``."""
        steps = [thickness_mm * ((i + 0.5) / SECTIONS - 0.5) for i in range(SECTIONS)]
        mean: Image = np.mean([averaged(self.section(scene, z + step, z)) for step in steps], 0)
        return mean

    def section(self, scene: Sequence[Painted], z: float, slice_z: float) -> NDArray[np.float32]:
        """[N, N] in HU at height ``z``; textures are those of the whole slice, at ``slice_z``."""
        hu = np.full(self._shape, AIR, np.float32)
        for item in scene:
            section = item.solid.section(self.x, self.y, z)
            if section is None:
                continue
            box, mask = section
            if item.clip is not None:
                if (other := item.clip.section(self.x, self.y, z)) is None:
                    continue
                allowed = np.zeros(self._shape, bool)
                allowed[other[0]] = other[1]
                mask = mask & allowed[box]
            hu[box][mask] = self._value(item, slice_z, box, mask)
        return hu

    def _value(self, item: Painted, z: float, box: Box, mask: Mask) -> float | Image:
        if (texture := item.texture) is None:
            return item.hu
        field = self._field(texture, z)
        if texture.fold is not None:
            return np.where(field[box][mask] > FOLD, texture.fold, item.hu)
        return item.hu + (texture.std * field)[box][mask]

    def _field(self, texture: Texture, z: float) -> NDArray[np.float32]:
        """[N, N] of standard deviation 1: planes of white noise, one a mm, weighted by a Gaussian along the axis."""
        key = texture.name, round(z, 3)
        if key not in self._fields:
            self._fields = {other: field for other, field in self._fields.items() if other[1] == key[1]}
            field, power = np.zeros(self._shape, np.float32), 0.0
            reach = max(1, math.ceil(1.5 * texture.mm))
            for plane in range(round(z) - reach, round(z) + reach + 1):
                weight = math.exp(-((z - plane) ** 2) / (texture.mm / 2) ** 2)
                rng = np.random.default_rng([self._seed, texture.name, plane + 1000])
                field, power = field + weight * rng.standard_normal(self._shape, np.float32), power + weight * weight
            spectrum, gain = self._spectrum(texture.mm)
            smooth = np.fft.irfft2(np.fft.rfft2(field / math.sqrt(power)) * spectrum, s=self._shape)
            self._fields[key] = (smooth / gain).astype(np.float32)
        return self._fields[key]

    def _spectrum(self, mm: float) -> tuple[Image, float]:
        """Of a field with this correlation: what white noise is multiplied by, and the deviation that this leaves."""
        if mm not in self._spectra:
            power = np.exp(-2 * (math.pi * self._whole * mm) ** 2)
            self._spectra[mm] = np.exp(-((math.pi * self._half * mm) ** 2)), math.sqrt(power.mean())
        return self._spectra[mm]
