"""The field of view: the bright disc of a fundus photograph on its dark surround.

Specification: methods/fsg-net.md, section 3.4, step 29 (a), and section 9, item 13. The threshold is taken on the
largest of the three channels: on the DRIVE training half the green channel alone misses the dark rim of dim photos.
Differs from step 29 in one case: where the mask so found fills the frame, because the surround is grey or white and not
black, and the frame's corners are of one colour, what differs from that colour is taken instead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.06
"""Threshold as a share of the 99th percentile."""
OPENING = 0.01
"""Radius of the opening disc as a share of the width: cuts off hairs of light and the text some cameras burn in."""
LEAST_ROUNDNESS = 0.6
WORKING_SIDE = 1024
"""Larger photos are searched at a reduced size; the edge of the mask is then good to about half a reduced pixel."""

_NOT_FUNDUS = "does not look like a fundus photograph"
_CORNER, _UNIFORM = 0.02, 0.03  # side of a corner as a share of the frame's; spread of one colour
_INLIER = 0.01  # distance from the fitted circle as a share of the mask's larger side
_TRIALS = 300
_OTHER_FIELD = 0.2  # least area of a second field of view, as a share of the first
_DISC = 0.75  # roundness of a disc whose upper and lower parts the frame cuts off

Mask = NDArray[np.bool_]
Points = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Fov:
    """Field of view of a photo.

    Parameters
    ----------
    mask : ndarray of bool, shape (H, W)
        True inside.
    box : (top, left, bottom, right)
        Bounds of the mask in pixels; bottom and right are exclusive.
    diameter : float
        Of the circle that the mask suggests, in pixels; parts that the frame cuts off are thought to be there.
    roundness : float
        Area of the mask / area of the smallest circle around it: 1 for a disc, 0.64 for a square.
    warnings : tuple of str
    """

    mask: Mask
    box: tuple[int, int, int, int]
    diameter: float
    roundness: float
    warnings: tuple[str, ...] = ()


def find_fov(pixels: NDArray[np.float32]) -> Fov:
    """Find the field of view of a fundus photograph.

    Parameters
    ----------
    pixels : ndarray, shape (3, H, W), float32 in [0, 1]

    Returns
    -------
    Fov, the largest there is. Warns where the mask is not round or fills the frame, corners included, as in photos of
    other things, and where there is a second field of view.

    Raises
    ------
    ValueError
        If the shape is another, or the photo is black or of one colour: no field of view found.

    References
    ----------
    methods/fsg-net.md, section 3.4, step 29 (a).
    """
    if pixels.ndim != 3 or len(pixels) != 3 or 0 in pixels.shape:
        raise ValueError(f"expected a photo [3, H, W], got shape {pixels.shape}")
    shape = (pixels.shape[1], pixels.shape[2])
    factor = math.ceil(max(shape) / WORKING_SIDE)
    small = _reduce(pixels, factor)  # [3, h, w]
    if np.ptp(small, axis=(1, 2)).max() < 1 / 255:
        raise ValueError("no field of view found: the photo is black or of one colour")
    bright = small.max(0)  # [h, w]
    level = LEVEL * float(np.percentile(bright, 99))
    mask = _clean(lit := bright > level)
    if _fills_corners(mask) and (surround := _surround(small)) is not None:
        differs = np.abs(small - surround[:, None, None]).max(0) > max(level, _UNIFORM)
        if (other := _clean(differs)).any():
            mask, lit = other, differs
    if not (mask.any() and _is_disc(mask)) and _is_disc(other := _clean(upper := bright > _otsu(bright))):
        mask, lit = other, upper  # a surround that is not dark: what splits the brightness best is the rim
    if not mask.any():
        raise ValueError("no field of view found: no part of the photo is bright enough and large enough")
    fov = fov_from_mask(mask if factor == 1 else _enlarge(mask, shape, factor))
    if share := _second(lit, mask):
        what = f"a second field of view, {share:.0%} as large, was left out"
        fov = replace(fov, warnings=(*fov.warnings, f"{what}: if it is another eye, cut the photo in two"))
    return fov


def _second(lit: Mask, mask: Mask) -> float:
    """Area of the largest other part of ``lit`` [h, w] as a share of the field that was chosen; 0 where it is small."""
    from scipy.ndimage import distance_transform_edt

    far = distance_transform_edt(~mask) > 2 * max(1.0, OPENING * mask.shape[1])  # not the rim that opening cut off
    rest = _clean(lit & far)
    share = float(np.count_nonzero(rest) / np.count_nonzero(mask))
    return share if share >= _OTHER_FIELD else 0.0


def _is_disc(mask: Mask) -> bool:
    """Whether [h, w] looks like the field of view of a fundus camera, cut off by the frame or not."""
    if not mask.any() or _fills_corners(mask):
        return False
    fov = fov_from_mask(mask)
    top, left, bottom, right = fov.box
    return fov.roundness >= _DISC and fov.diameter <= 1.15 * max(bottom - top, right - left)


def _otsu(values: NDArray[np.float32]) -> float:
    from skimage.filters import threshold_otsu

    return float(threshold_otsu(values))  # type: ignore[no-untyped-call]


def fov_from_mask(mask: NDArray[Any]) -> Fov:
    """Box, diameter and roundness of a given mask [H, W], bool or nonzero inside; ``ValueError`` if it is empty."""
    if mask.ndim != 2:
        raise ValueError(f"expected a mask [H, W], got shape {mask.shape}")
    inside: Mask = mask != 0  # a copy of ones and zeros: the bools of Pillow's 1-bit images are bytes of 255
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    if not rows.size:
        raise ValueError("no field of view found: the mask is empty")
    top, left, bottom, right = int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1
    edge, free = _outline(inside[top:bottom, left:right], (top, left), inside.shape)
    radius = _enclosing_radius(edge)
    roundness = min(1.0, float(np.count_nonzero(inside)) / (math.pi * radius**2))
    side = float(max(bottom - top, right - left))
    diameter = _fitted_diameter(edge[free], side)
    warnings: tuple[str, ...] = ()
    if _fills_corners(inside):
        warnings = (f"{_NOT_FUNDUS}: the field of view fills the whole frame",)
    elif roundness < LEAST_ROUNDNESS:
        warnings = (f"{_NOT_FUNDUS}: the field of view covers {roundness:.0%} of the circle around it",)
    return Fov(inside, (top, left, bottom, right), diameter, roundness, warnings)


def whole_image(shape: tuple[int, int]) -> Fov:
    """The whole frame (H, W) as field of view, its larger side as diameter. Asked for, so nothing is warned of."""
    height, width = shape
    if min(height, width) < 1:
        raise ValueError(f"the image has no pixels: its size is {height} x {width}")
    roundness = 4 * height * width / (math.pi * (height**2 + width**2))
    return Fov(np.ones((height, width), bool), (0, 0, height, width), float(max(height, width)), roundness)


def _reduce(pixels: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """Means of factor x factor pixels; what does not fill a block at the end is left out."""
    if factor == 1:
        return pixels
    height, width = (max(1, side // factor) for side in pixels.shape[1:])
    down, across = (min(factor, side) for side in pixels.shape[1:])
    blocks = pixels[:, : height * down, : width * across].reshape(3, height, down, width, across)
    return np.asarray(blocks.mean((2, 4)), np.float32)


def _enlarge(mask: Mask, shape: tuple[int, int], factor: int) -> Mask:
    """Undo ``_reduce`` for a mask, bilinear so that the edge has no steps of the factor's size."""

    def places(count: int, side: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        place = np.clip((np.arange(count) - (factor - 1) / 2) / factor, 0, side - 1)
        base = np.minimum(place.astype(np.int64), max(side - 2, 0))
        return base, (place - base).astype(np.float32)

    column, right = places(shape[1], mask.shape[1])
    value = mask.astype(np.float32)
    wide = value[:, column] * (1 - right) + value[:, np.minimum(column + 1, mask.shape[1] - 1)] * right  # [h, W]
    row, below = places(shape[0], mask.shape[0])
    out = np.empty(shape, bool)
    for start in range(0, shape[0], 256):  # strips: a large photo needs no float copy of its mask
        part = slice(start, start + 256)
        share = below[part, None]
        out[part] = wide[row[part]] * (1 - share) + wide[np.minimum(row[part] + 1, len(wide) - 1)] * share > 0.5
    return out


def _clean(mask: Mask) -> Mask:
    """Largest component, holes filled, opened with a disc, and once more the largest component. [h, w]"""
    from scipy import ndimage

    mask = ndimage.binary_fill_holes(_largest(mask))
    radius = max(1.0, OPENING * mask.shape[1])
    if not mask.all():  # the distance to nothing is not defined
        core = ndimage.distance_transform_edt(mask) > radius
        if not core.any():
            return core  # type: ignore[no-any-return]
        mask = ndimage.distance_transform_edt(~core) <= radius
    return _largest(mask)


def _largest(mask: Mask) -> Mask:
    from scipy import ndimage

    labels, count = ndimage.label(mask)
    if count < 2:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray(labels == sizes.argmax(), bool)


def _corners(shape: tuple[int, ...]) -> list[tuple[slice, slice]]:
    height, width = (max(1, round(_CORNER * side)) for side in shape)
    rows, columns = (slice(None, height), slice(-height, None)), (slice(None, width), slice(-width, None))
    return [(row, column) for row in rows for column in columns]


def _fills_corners(mask: Mask) -> bool:
    """Whether at least three corners of the frame belong to the mask; those of a disc do not, cut off or not."""
    return sum(bool(mask[corner].mean() > 0.5) for corner in _corners(mask.shape)) >= 3


def _surround(small: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """The one colour of all four corners of [3, h, w], or None."""
    parts = [small[(slice(None), *corner)].reshape(3, -1) for corner in _corners(small.shape[1:])]
    values = np.concatenate(parts, 1)  # [3, N]
    colour = np.median(values, 1)
    spread = np.percentile(np.abs(values - colour[:, None]), 95)
    return colour if spread < _UNIFORM else None


def _outline(cut: Mask, corner: tuple[int, int], shape: tuple[int, ...]) -> tuple[Points, Mask]:
    """First and last pixel of every row and column as points (y, x), and which lie inside the frame.

    Points stand on the outer side of their pixel, half a pixel out, as the edge of the mask does.
    """
    height, width = cut.shape
    rows, columns = np.flatnonzero(cut.any(1)), np.flatnonzero(cut.any(0))
    first, last = cut.argmax(1)[rows], width - 1 - cut[:, ::-1].argmax(1)[rows]
    upper, lower = cut.argmax(0)[columns], height - 1 - cut[::-1].argmax(0)[columns]
    y = np.concatenate([rows, rows, upper - 0.5, lower + 0.5])
    x = np.concatenate([first - 0.5, last + 0.5, columns, columns])
    points = np.stack([y + corner[0], x + corner[1]], 1)
    inner = (points > 0.5) & (points < np.array(shape) - 1.5)  # a point on the frame was put there by the frame
    free: Mask = np.asarray(inner.all(1), np.bool_)
    return points, free


def _enclosing_radius(points: Points) -> float:
    """Radius of the smallest circle around (y, x) [N, 2], by Badoiu and Clarkson's iteration: within about 0.1 %."""
    centre = (points.min(0) + points.max(0)) / 2
    best = math.inf
    for step in range(1, 1001):
        squared = ((points - centre) ** 2).sum(1)
        far = int(squared.argmax())
        best = min(best, float(squared[far]))
        centre = centre + (points[far] - centre) / (step + 1)
    return math.sqrt(best)


def _circle(points: Points) -> tuple[Points, float] | None:
    """Centre and radius of the least-squares circle (Kåsa) through [N, 2]; None where they lie on a line."""
    origin = points.mean(0)
    shifted = points - origin
    system = np.column_stack([2 * shifted, np.ones(len(points))])
    solution, _, rank, _ = np.linalg.lstsq(system, (shifted**2).sum(1), rcond=1e-9)
    squared = solution[2] + (solution[:2] ** 2).sum()
    return (origin + solution[:2], math.sqrt(squared)) if rank == 3 and squared > 0 else None


def _fitted_diameter(points: Points, side: float) -> float:
    """Diameter of the circle that most of the outline's free points lie on; ``side`` where there is none.

    Circles through three points drawn at random, the one with most points near it fitted to those (RANSAC): straight
    edges, where the photo is cut off inside its frame, and notches do not count. The seed is fixed.
    """
    if len(points) < 12:
        return side
    generator = np.random.default_rng(0)
    drawn = points if len(points) <= 1000 else points[:: len(points) // 1000 + 1]
    tolerance = max(1.0, _INLIER * side)
    most, near = 0, None
    for _ in range(_TRIALS):
        circle = _circle(drawn[generator.choice(len(drawn), 3, replace=False)])
        if circle is None or not 0.9 * side / 2 <= circle[1] <= side:
            continue  # a circle cannot be much smaller than what it bounds, nor do cameras cut off more than half
        close = np.abs(np.linalg.norm(drawn - circle[0], axis=1) - circle[1]) < tolerance
        if (count := int(close.sum())) > most:
            most, near = count, circle
    if near is None or most < len(drawn) / 4:
        return side
    close = np.abs(np.linalg.norm(points - near[0], axis=1) - near[1]) < tolerance
    circle = _circle(points[close])
    return 2 * circle[1] if circle is not None and circle[1] <= 1.1 * side else side
