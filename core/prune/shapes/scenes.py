"""Which objects are where: scenes of up to six shapes and a digit in a box, many at a time."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .words import COLOURS, SHAPES

SIDE = 96
"""Of the canvas, in pixels."""
PATCH = 8
GRID = SIDE // PATCH
SIZES = np.array([8, 12, 18])
"""Sides of objects, in pixels."""
OBJECTS = 6
"""Most objects of a scene; slot 6 is the box with the digit."""
BOX = OBJECTS
BOX_SIDE = 14
DENSITIES = (0.0, 0.3, 0.6)
"""Of the strokes that distract."""
BACKGROUNDS = 4
"""Plain, gradient, 1/f noise, stripes."""
BAR = 16
"""Width of each grey bar of a letterboxed scene."""
TRIES = 12
"""Places that are tried for an object before it is left out."""
OVERLAP = 0.1
"""Of the smaller of two objects, at most."""

Ints = NDArray[np.int64]
Band = Literal["top", "bottom"]


@dataclass(frozen=True, slots=True)
class Scenes:
    """B scenes; slots 0 to 5 are objects, slot 6 the digit's box.

    Parameters
    ----------
    shape, colour : ndarray of int [B, 6]
    size : ndarray of int [B, 6]
        Number of the size in ``SIZES``.
    side, x, y : ndarray of int [B, 7]
        In pixels; x and y of the upper left corner.
    present : ndarray of bool [B, 7]
    digit : ndarray of int [B]
        -1 where there is no box.
    region : ndarray of int [B, 4]
        x0, y0, x1, y1 of the picture between the grey bars.
    letterbox : ndarray of bool [B]
    background : ndarray of int [B]
    density : ndarray of float [B]
    """

    shape: Ints
    colour: Ints
    size: Ints
    side: Ints
    x: Ints
    y: Ints
    present: NDArray[np.bool_]
    digit: Ints
    region: Ints
    letterbox: NDArray[np.bool_]
    background: Ints
    density: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.digit)

    def select(self, index: Ints) -> Scenes:
        """Some of them."""
        return Scenes(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

    def boxes(self) -> Ints:
        """x0, y0, x1, y1 in pixels of every slot, [B, 7, 4]; zeros where nothing is."""
        corners = np.stack([self.x, self.y, self.x + self.side, self.y + self.side], -1)
        return np.where(self.present[..., None], corners, 0)

    def centres(self) -> NDArray[np.float64]:
        """x, y of the middle of every slot, in pixels, [B, 7, 2]."""
        return np.stack([self.x + self.side / 2, self.y + self.side / 2], -1)

    def coverage(self) -> Ints:
        """Pixels of every slot's box in every patch, [B, 7, 12, 12]."""
        edge = np.arange(GRID) * PATCH
        x0, y0, x1, y1 = np.moveaxis(self.boxes()[..., None], -2, 0)
        across = np.clip(np.minimum(x1, edge + PATCH) - np.maximum(x0, edge), 0, None)
        down = np.clip(np.minimum(y1, edge + PATCH) - np.maximum(y0, edge), 0, None)
        out: Ints = down[..., :, None] * across[..., None, :]
        return out


def draw_scenes(
    rng: np.random.Generator, count: int, *, most: int = OBJECTS, letterbox: float = 0.0, digits: float = 0.5,
    band: Band | None = None, density: float | None = None,
) -> Scenes:  # fmt: skip
    """Scenes at random.

    Parameters
    ----------
    rng : Generator
    count : int
    most : int
        Objects of a scene; 1 to 6.
    letterbox : float
        Share of scenes with grey bars, above and below or at the sides.
    digits : float
        Share with a digit in a box.
    band : {"top", "bottom"}, optional
        The third of the picture that all objects lie in.
    density : float, optional
        Of the strokes that distract; one of ``DENSITIES`` at random without it.
    """
    amount = rng.integers(1, most + 1, count)
    shape = rng.integers(0, len(SHAPES), (count, OBJECTS))
    colour = rng.integers(0, len(COLOURS), (count, OBJECTS))
    shape, amount = _themes(rng, shape, amount, most)
    twin = rng.random((count, OBJECTS)) < 0.12  # the colour of the object before: harder to tell apart
    for slot in range(1, OBJECTS):
        colour[:, slot] = np.where(twin[:, slot], colour[:, slot - 1], colour[:, slot])
    size = rng.integers(0, len(SIZES), (count, OBJECTS))
    barred, wide = rng.random(count) < letterbox, rng.random(count) < 0.5
    x0, y0 = np.where(barred & ~wide, BAR, 0), np.where(barred & wide, BAR, 0)
    region = np.stack([x0, y0, SIDE - x0, SIDE - y0], 1)
    digit = np.where(rng.random(count) < digits, rng.integers(0, 10, count), -1)
    side = np.concatenate([SIZES[size], np.full((count, 1), BOX_SIDE)], 1)
    wanted = np.concatenate([np.arange(OBJECTS) < amount[:, None], (digit >= 0)[:, None]], 1)
    rows = {"top": (0, SIDE // 3), "bottom": (SIDE - SIDE // 3, SIDE)}.get(band or "", (0, SIDE))
    lowest, highest = np.maximum(region[:, 1], rows[0]), np.minimum(region[:, 3], rows[1])
    x, y, present = _places(rng, side, wanted, region, lowest, highest)
    return Scenes(
        shape, colour, size, side, x, y, present, np.where(present[:, BOX], digit, -1), region, barred,
        rng.integers(0, BACKGROUNDS, count),
        rng.choice(DENSITIES, count) if density is None else np.full(count, density),
    )  # fmt: skip


def _themes(rng: np.random.Generator, shape: Ints, amount: Ints, most: int) -> tuple[Ints, Ints]:
    """Two to four objects of one shape in 40 % of the scenes: there is something to count."""
    count = len(amount)
    theme = rng.random(count) < 0.4
    themed, repeats = rng.integers(0, len(SHAPES), count), rng.integers(2, 5, count)
    forced = theme[:, None] & (np.arange(OBJECTS) < repeats[:, None])
    least = np.maximum(amount, np.minimum(repeats, most))
    return np.where(forced, themed[:, None], shape), np.where(theme, least, amount)


def _places(
    rng: np.random.Generator, side: Ints, wanted: NDArray[np.bool_], region: Ints, lowest: Ints, highest: Ints
) -> tuple[Ints, Ints, NDArray[Any]]:
    """Upper left corners, and which objects found a place: the first of ``TRIES`` that overlaps nothing much."""
    count, slots = side.shape
    x, y = np.zeros((count, slots), np.int64), np.zeros((count, slots), np.int64)
    placed = np.zeros((count, slots), bool)
    scene = np.arange(count)
    for slot in (BOX, *range(OBJECTS)):
        own = side[:, slot, None]
        tried_x = region[:, :1] + np.floor(rng.random((count, TRIES)) * (region[:, 2:3] - region[:, :1] - own + 1))
        tried_y = lowest[:, None] + np.floor(
            rng.random((count, TRIES)) * (highest[:, None] - lowest[:, None] - own + 1)
        )
        tried_x, tried_y = tried_x.astype(np.int64), tried_y.astype(np.int64)
        across = np.minimum(tried_x[..., None] + own[..., None], (x + side)[:, None]) - np.maximum(
            tried_x[..., None], x[:, None]
        )
        down = np.minimum(tried_y[..., None] + own[..., None], (y + side)[:, None]) - np.maximum(
            tried_y[..., None], y[:, None]
        )
        common = np.clip(across, 0, None) * np.clip(down, 0, None) * placed[:, None]
        limit = OVERLAP * np.minimum(own[..., None] ** 2, (side**2)[:, None])
        free = (common <= limit).all(2)
        first = free.argmax(1)
        good = wanted[:, slot] & free[scene, first]
        x[:, slot] = np.where(good, tried_x[scene, first], 0)
        y[:, slot] = np.where(good, tried_y[scene, first], 0)
        placed[:, slot] = good
    return x, y, placed
