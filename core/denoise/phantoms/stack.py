"""A phantom series: several slices through the same solids, as thick as a scanner's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .phantom import KERNELS, Insert, Phantom, check_geometry, check_name, disc, even_disc, kernel_blur
from .scenes import lay_out
from .single import BACKGROUND
from .solids import Painted, Painter


def draw_series(
    kind: str,
    seed: int,
    *,
    slices: int = 7,
    side: int = 192,
    pixel_mm: float = 0.7,
    spacing_mm: float = 2.5,
    thickness_mm: float | None = None,
    cutoff_per_mm: float = KERNELS["standard"],
    positions_mm: Sequence[float] | None = None,
    extra: Sequence[Painted] = (),
) -> Phantom:
    """A random CT series without noise.

    Parameters
    ----------
    kind : str
        One of `attn.core.denoise.phantoms.phantom.KINDS`.
    seed : int
        Same kind, seed and geometry, same pixels. Not the anatomy of `draw_slice` at that seed.
    slices : int
        How many; the middle of the stack is at 0 mm.
    side, pixel_mm, cutoff_per_mm
        As for `attn.core.denoise.phantoms.single.draw_slice`.
    spacing_mm : float
        From one slice's middle to the next.
    thickness_mm : float, optional
        Of a slice. Default: the spacing, so that slices touch.
    positions_mm : sequence of float, optional
        The slices' middles, instead of ``slices`` at ``spacing_mm``: gaps, overlaps.
    extra : sequence of Painted
        Painted last.

    Returns
    -------
    Phantom. Its rods lean, so none is given; inserts are those that are the same in every slice.

    Raises
    ------
    ValueError
        For an unknown kind, a negative seed, or a geometry that cannot be drawn.

    References
    ----------
    methods/adaptive-denoise.md, section 6.
    """
    check_name(kind, seed)
    thick = spacing_mm if thickness_mm is None else thickness_mm
    check_geometry(side, pixel_mm=pixel_mm, cutoff_per_mm=cutoff_per_mm, spacing_mm=spacing_mm, thickness_mm=thick)
    z = slice_positions(slices, spacing_mm) if positions_mm is None else np.asarray(positions_mm, np.float64)
    if not z.size or not np.isfinite(z).all():
        raise ValueError("a series needs at least one slice, and finite positions")
    scene = [*lay_out(kind, seed, side * pixel_mm / 2, float(np.abs(z).max()) + thick), *extra]
    painter = Painter(side, pixel_mm, seed)
    truth = np.array(
        [kernel_blur(painter.slice(scene, float(at), thick), pixel_mm, cutoff_per_mm) for at in z], np.float32
    )
    inserts: tuple[Insert, ...] = ()
    if kind == "inserts":
        inserts = tuple(insert for insert in _along(scene, side, pixel_mm) if _stands_alone(truth, insert))
    return Phantom(
        kind, seed, truth, pixel_mm, cutoff_per_mm, tuple(float(at) for at in z), thick, inserts,
        uniform=even_disc(truth, BACKGROUND) if kind == "inserts" else None,
    )  # fmt: skip


def slice_positions(slices: int, spacing_mm: float) -> NDArray[np.float64]:
    """[slices] middles in mm, around 0."""
    return np.asarray((np.arange(slices) - (slices - 1) / 2) * spacing_mm)


def _along(scene: Sequence[Painted], side: int, pixel_mm: float) -> list[Insert]:
    """Discs of low contrast that run along the axis through all slices."""
    return [
        disc(item.solid.cx, item.solid.cy, item.solid.a, item.hu - BACKGROUND, side=side, pixel_mm=pixel_mm)
        for item in scene
        if item.texture is None
        and 0 < abs(item.hu - BACKGROUND) <= 60
        and (item.solid.c, item.solid.tx, item.solid.ty) == (float("inf"), 0, 0)
    ]


def _stands_alone(truth: NDArray[np.float32], insert: Insert, tolerance_hu: float = 2.0) -> bool:
    """Whether in every slice [Z, H, W] the insert has its value, and around it lies nothing but background."""
    rows, columns = np.ogrid[: truth.shape[1], : truth.shape[2]]
    distance = np.hypot(rows - insert.row, columns - insert.column) - insert.radius  # in pixels
    inside, around = distance <= -2.5, (distance >= 2.5) & (distance <= 4.5)
    middle, ring = truth[:, inside] - BACKGROUND - insert.contrast, truth[:, around] - BACKGROUND
    return bool((np.abs(middle) <= tolerance_hu).all() and (np.abs(ring) <= tolerance_hu).all())
