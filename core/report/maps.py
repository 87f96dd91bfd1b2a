"""Figures of maps: a value for every pixel of an image, each with a colour scale of its own.

As ``figure.py``: the same arguments give the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .canvas import Window, grid

FLAT = 0.02  # a colour range never spans less than this share of the mean: rounding noise must not look like structure


@dataclass(frozen=True, slots=True)
class ValueMap:
    """One map.

    Parameters
    ----------
    values : ndarray, shape (H, W)
    name : str
        Above the map.
    unit : str
        Above its colour bar.
    limits : (float, float) or None
        Lowest and highest value of the colour scale; None: those of the map.
    """

    values: NDArray[Any]
    name: str
    unit: str = ""
    limits: Window | None = None


def value_maps(
    rows: Sequence[Sequence[ValueMap]], path: str | PathLike[str], *, title: str = "", aspect: float = 1.0
) -> None:
    """Draw maps as a grid, with lowest, mean and highest value in words.

    Parameters
    ----------
    rows : sequence of sequence of ValueMap
        All of one shape; a row may be shorter than the others.
    path : path
        ``.png`` or ``.svg``; appears whole or not at all.
    title : str
        Above the panels.
    aspect : float
        Height of a pixel over its width.

    Raises
    ------
    UsageError
        If the suffix is neither of the two.
    ValueError
        If there is no map, or they differ in shape.
    """
    shapes = {one.values.shape for row in rows for one in row}
    if len(shapes) != 1 or len(shape := shapes.pop()) != 2:
        raise ValueError(f"maps have one shape [H, W], got {sorted(shapes) or 'none'}")
    columns = max(map(len, rows))
    with grid(path, (len(rows), columns), shape, title, bars=range(columns), lines=2, aspect=aspect) as cells:
        for row, maps in enumerate(rows):
            for column, one in enumerate(maps):
                low, mean, high = float(one.values.min()), float(one.values.mean()), float(one.values.max())
                half = max(high - low, FLAT * abs(mean)) / 2 or 0.5
                limits = one.limits or ((low + high) / 2 - half, (low + high) / 2 + half)
                text = f"{one.name}\nmin {low:.4g} · mean {mean:.4g} · max {high:.4g}"
                cells.bar(cells.image(row, column, one.values, text, limits, "viridis"), row, column, one.unit)


def sigma_maps(stages: Sequence[ArrayLike], path: str | PathLike[str], *, title: str = "", aspect: float = 1.0) -> None:
    """Draw the three filter widths of each stage of Filter2Noise.

    Parameters
    ----------
    stages : sequence of array_like, each of shape (3, H, W)
        σx and σy in pixels, σr in units of the image mapped to [0, 1].
    path, title, aspect
        As in ``value_maps``.

    Raises
    ------
    UsageError
        If the suffix is neither ``.png`` nor ``.svg``.
    ValueError
        If there is no stage or one has another shape.
    """
    maps = [np.asarray(stage, dtype=np.float64) for stage in stages]
    if not maps or any(stage.ndim != 3 or stage.shape[0] != 3 for stage in maps):
        raise ValueError(f"sigma maps have shape [3, H, W] per stage, got {[stage.shape for stage in maps]}")
    named = (("σx", "px"), ("σy", "px"), ("σr", ""))
    rows = [
        [
            ValueMap(values, f"Stage {stage}: {name}" if len(maps) > 1 else name, unit)
            for values, (name, unit) in zip(widths, named, strict=True)
        ]
        for stage, widths in enumerate(maps, 1)
    ]
    value_maps(rows, path, title=title, aspect=aspect)
