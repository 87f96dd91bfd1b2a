"""Lesions that lie in one slice alone: what a method that looks at neighbouring slices could lose, or copy.

A textured disc with vessels, and twelve flat lesions of known contrast, in units of the noise, and known radius. The
same noise goes with and without them, so that what became of each can be measured as a difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .phantom import FINE, KERNELS, Phantom, averaged, check_geometry, fine_axis, kernel_blur
from .scan import scan
from .solids import Painted, Painter, Solid, Texture
from .stack import slice_positions

LEVELS = (0.5, 1.0, 2.0, 3.0)
"""Contrasts of lesions in standard deviations of the noise."""
RADII_MM = (1.5, 2.5, 4.0)
RINGS = ((0.68, 8), (0.36, 4))
"""Where they lie: how far out, as a share of half the slice, and how many."""


@dataclass(frozen=True, slots=True)
class Lesion:
    """One lesion.

    Parameters
    ----------
    row, column : float
        Its centre in pixels: 0 is the middle of the first pixel.
    radius : float
        In pixels.
    radius_mm : float
    level : float
        Its contrast in standard deviations of the noise, without sign.
    contrast : float
        In HU; every second one is dark.
    """

    row: float
    column: float
    radius: float
    radius_mm: float
    level: float
    contrast: float

    def core(self, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """[H, W]: its pixels less half a pixel of rim, at least a radius of 1.5 pixels."""
        rows, columns = np.ogrid[: shape[0], : shape[1]]
        return np.asarray(np.hypot(columns - self.column, rows - self.row) <= max(self.radius - 0.5, 1.5))


@dataclass(frozen=True, slots=True)
class LesionSeries:
    """A series without lesions, the same one with them, and the noise of both.

    Parameters
    ----------
    plain : Phantom
        Without lesions.
    truth : ndarray, shape (Z, H, W), float32
        With them, in HU.
    noise : ndarray, shape (Z, H, W), float32
        To be added to either, in HU.
    noise_std : float
        Of the middle slice, in HU.
    lesions : tuple of Lesion
    present : tuple of int
        The slices that hold them.
    """

    plain: Phantom
    truth: NDArray[np.float32]
    noise: NDArray[np.float32]
    noise_std: float
    lesions: tuple[Lesion, ...]
    present: tuple[int, ...]


def draw_lesions(
    seed: int,
    *,
    dose: float,
    cutoff_per_mm: float = KERNELS["standard"],
    slices: int = 5,
    side: int = 192,
    pixel_mm: float = 0.7,
    spacing_mm: float = 2.5,
    thickness_mm: float = 2.5,
    present: Sequence[int] | None = None,
) -> LesionSeries:
    """A series with twelve lesions in one slice, `LEVELS` times `RADII_MM`.

    Parameters
    ----------
    seed : int
        Of the vessels, the textures and the noise.
    dose : float
        As for `attn.core.denoise.phantoms.scan.scan`.
    cutoff_per_mm, slices, side, pixel_mm, spacing_mm, thickness_mm
        As for `attn.core.denoise.phantoms.stack.draw_series`.
    present : sequence of int, optional
        The slices that hold the lesions. Default: the middle one.

    Raises
    ------
    ValueError
        For a geometry or a dose that cannot be.

    References
    ----------
    methods/adaptive-denoise.md, section 6.
    """
    check_geometry(
        side, pixel_mm=pixel_mm, cutoff_per_mm=cutoff_per_mm, spacing_mm=spacing_mm, thickness_mm=thickness_mm
    )
    half, middle = side * pixel_mm / 2, slices // 2
    painter, scene = Painter(side, pixel_mm, seed), _scene(seed, half)
    positions = tuple(float(at) for at in slice_positions(slices, spacing_mm))
    truth = np.array(
        [kernel_blur(painter.slice(scene, at, thickness_mm), pixel_mm, cutoff_per_mm) for at in positions], np.float32
    )
    plain = Phantom("lesions", seed, truth, pixel_mm, cutoff_per_mm, positions, thickness_mm)
    noise = scan(plain, dose, seed=1000 * (900 + seed)) - truth
    rows, columns = np.ogrid[:side, :side]
    noise_std = float(noise[middle][np.hypot(rows - side / 2, columns - side / 2) < 0.6 * side / 2].std())
    lesions = _lesions(seed, half, side, pixel_mm, noise_std)
    shown = (middle,) if present is None else tuple(present)
    added = kernel_blur(_drawn(lesions, side, pixel_mm), pixel_mm, cutoff_per_mm)
    with_lesions = truth.copy()
    with_lesions[list(shown)] += added
    return LesionSeries(plain, with_lesions, noise, noise_std, lesions, shown)


def _scene(seed: int, half: float) -> list[Painted]:
    """Fat, an organ with leaning vessels, and a bone in its middle; the organ's texture is what lesions lie in."""
    rng = np.random.default_rng([78, seed])
    u = rng.uniform
    scene = [
        Painted(Solid(0, 0, 0.93 * half, 0.93 * half), -100, Texture(1, 2.5, 8)),
        Painted(Solid(0, 0, 0.86 * half, 0.86 * half), 80, Texture(5, 1.5, 6)),
    ]
    for _ in range(16):
        r = u(0.8, 2.5)
        vessel = Solid(u(-0.6, 0.6) * half, u(-0.6, 0.6) * half, r, r, tx=u(-1.2, 1.2), ty=u(-1.2, 1.2))
        scene.append(Painted(vessel, 80 + rng.choice([-40, 40, 70])))
    return [*scene, Painted(Solid(0, 0, 10, 8, cz=0, c=40), 600, Texture(11, 0.9, 70))]


def _lesions(seed: int, half: float, side: int, pixel_mm: float, noise_std: float) -> tuple[Lesion, ...]:
    lesions = []
    places = [(ring, 2 * math.pi * i / count + 0.2) for ring, count in RINGS for i in range(count)]
    sizes = [(level, radius) for level in LEVELS for radius in RADII_MM]
    for k, ((ring, angle), (level, radius)) in enumerate(zip(places, sizes, strict=True)):
        x, y = ring * half * math.cos(angle), ring * half * math.sin(angle)
        row, column = (at / pixel_mm + side / 2 - 0.5 for at in (y, x))
        sign = 1 if (k + seed) % 2 else -1
        lesions.append(Lesion(row, column, radius / pixel_mm, radius, level, sign * level * noise_std))
    return tuple(lesions)


def _drawn(lesions: Sequence[Lesion], side: int, pixel_mm: float) -> NDArray[np.float32]:
    """[side, side] in HU: what the lesions add to whatever is there."""
    axis = fine_axis(side, pixel_mm)
    fine = np.zeros((side * FINE, side * FINE), np.float32)
    for lesion in lesions:
        x, y = ((at + 0.5 - side / 2) * pixel_mm for at in (lesion.column, lesion.row))
        fine[np.hypot(axis[None] - x, axis[:, None] - y) <= lesion.radius_mm] = lesion.contrast
    return np.asarray(averaged(fine), np.float32)
