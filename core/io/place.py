"""Where slices lie, as far as their files say."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

Vector = tuple[float, float, float]
SAME_MM = 0.01
"""Positions that differ by less are the same: headers state them with about three decimals."""


@dataclass(frozen=True, slots=True)
class SlicePlace:
    """Where one slice lies, in mm of one frame of reference.

    Parameters
    ----------
    origin : tuple of float
        Centre of the pixel in row 0 and column 0.
    across, down : tuple of float
        Unit vectors in which the columns and the rows of the image follow each other.
    spacing : tuple of float
        mm between rows, and between columns.
    frame : str
        The frame of reference (a UID); slices of different ones cannot be compared.
    marks : tuple of (str, str)
        Names and values of what the header says of the acquisition: they tell apart slices that lie in one place.
    """

    origin: Vector
    across: Vector
    down: Vector
    spacing: tuple[float, float]
    frame: str = ""
    marks: tuple[tuple[str, str], ...] = ()

    @property
    def normal(self) -> Vector:
        return vector(np.cross(self.across, self.down))

    def seen_from(self, first: SlicePlace) -> tuple[float, float, float]:
        """mm along the normal of ``first`` to this slice, and where its pixel (0, 0) lies in rows and columns there."""
        apart = np.subtract(self.origin, first.origin)
        rows, columns = first.spacing
        return (
            float(apart @ np.asarray(first.normal)),
            float(apart @ np.asarray(first.down)) / rows,
            float(apart @ np.asarray(first.across)) / columns,
        )


def vector(values: Iterable[float]) -> Vector:
    """Three floats."""
    x, y, z = (float(value) for value in values)
    return x, y, z


def place_of(
    origin: Sequence[float],
    across: Sequence[float],
    down: Sequence[float],
    spacing: tuple[float, float],
    frame: str = "",
    marks: tuple[tuple[str, str], ...] = (),
) -> SlicePlace | None:
    """A place whose directions are made to unit vectors; None where they span no plane, or a number is not finite."""
    numbers = [*origin, *across, *down, *spacing]
    if not all(map(math.isfinite, numbers)) or min(spacing) <= 0:
        return None
    lengths = [float(np.linalg.norm(direction)) for direction in (across, down)]
    if min(lengths) == 0 or abs(float(np.dot(across, down))) > 0.01 * lengths[0] * lengths[1]:
        return None  # rows and columns at right angles, or it is no image plane
    x, y = (np.divide(direction, length) for direction, length in zip((across, down), lengths, strict=True))
    return SlicePlace(vector(origin), vector(x), vector(y), spacing, frame, marks)
