"""Drawn shelves: rows of covers, one of which is searched, some of which look like it. Ours.

A cover has a hue, an accent of another hue, and a motif. What is far from a target in all three is clutter.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

HEIGHT, WIDTH = 32, 24
"""Pixels of a cover."""
PITCH = 1.25
"""Of a shelf's cells, in covers."""
JITTER = 2
"""Pixels by which a cover may stand beside its place."""
MOTIFS = ("disc", "band", "stripes", "diamond", "frame", "half")
HELD_OUT = (0.45, 0.60)
"""Hues that no cover of training has: greens and blues between cyan and azure, in turns of the colour circle."""


@dataclass(frozen=True, slots=True)
class Cover:
    """Hue and accent in turns of the colour circle; motif by number."""

    hue: float
    accent: float
    motif: int

    def likeness(self, other: Cover) -> float:
        """How like another cover it looks, 1 for the same."""
        near = np.exp(-((_apart(self.hue, other.hue) / 0.06) ** 2))
        accent = np.exp(-((_apart(self.accent, other.accent) / 0.08) ** 2))
        return float(0.6 * near + 0.25 * (self.motif == other.motif) + 0.15 * accent)


@dataclass(frozen=True, slots=True)
class Shelf:
    """A scene.

    Parameters
    ----------
    picture : ndarray (H, W, 3) of uint8
    boxes : ndarray (N, 4) of float64
        x0, y0, x1, y1 in pixels, row by row.
    covers : tuple of Cover
    target : int
    rows, cols : int
    """

    picture: NDArray[np.uint8]
    boxes: NDArray[np.float64]
    covers: tuple[Cover, ...]
    target: int
    rows: int
    cols: int

    @property
    def likeness(self) -> NDArray[np.float64]:
        """Of each object to the target (N,)."""
        return np.array([cover.likeness(self.covers[self.target]) for cover in self.covers])


def _apart(one: float, other: float) -> float:
    """Distance on the colour circle, at most half a turn."""
    return abs((one - other + 0.5) % 1 - 0.5)


def draw_shelf(rng: np.random.Generator, rows: int, cols: int, *, held_out: bool = False) -> Shelf:
    """A shelf of rows x cols covers.

    Parameters
    ----------
    rng : Generator
    rows, cols : int
    held_out : bool
        The target's hue is one that no cover of training has; otherwise no cover has one.
    """
    count = rows * cols
    low, high = HELD_OUT
    turn = (high - low) if held_out else 1 - (high - low)
    start = low if held_out else high

    def hue() -> float:
        return float((high + rng.random() * (1 - (high - low))) % 1)

    def accent(of: float) -> float:
        return float((of + rng.uniform(0.25, 0.75)) % 1)

    main = float((start + rng.random() * turn) % 1)
    wanted = Cover(main, accent(main), int(rng.integers(len(MOTIFS))))
    covers = [wanted]
    for number in range(int(rng.integers(2, max(3, count // 4) + 1))):
        if number % 2:  # the motif and accent of the target, another hue
            covers.append(Cover(hue(), wanted.accent, wanted.motif))
        else:  # its hue, another motif
            motif = (wanted.motif + int(rng.integers(1, len(MOTIFS)))) % len(MOTIFS)
            near = (main + float(rng.uniform(-0.03, 0.03))) % 1
            covers.append(Cover(near if held_out or not low < near < high else main, accent(main), motif))
    while len(covers) < count:
        other = hue()
        if _apart(other, main) > 0.12:
            covers.append(Cover(other, accent(other), int(rng.integers(len(MOTIFS)))))
    order = rng.permutation(count)
    placed = tuple(covers[number] for number in order)
    return _drawn(rng, placed, int(np.flatnonzero(order == 0)[0]), rows, cols)


def _drawn(rng: np.random.Generator, covers: tuple[Cover, ...], target: int, rows: int, cols: int) -> Shelf:
    down, across = round(PITCH * HEIGHT), round(PITCH * WIDTH)
    picture = np.empty((rows * down, cols * across, 3), np.uint8)
    picture[:] = rng.integers(90, 150, 3)  # the wall
    for row in range(rows):
        picture[(row + 1) * down - 3 : (row + 1) * down] = rng.integers(40, 80, 3)  # the board
    boxes = []
    for number, cover in enumerate(covers):
        row, col = divmod(number, cols)
        top = row * down + (down - HEIGHT) // 2 + int(rng.integers(-JITTER, JITTER + 1))
        left = col * across + (across - WIDTH) // 2 + int(rng.integers(-JITTER, JITTER + 1))
        picture[top : top + HEIGHT, left : left + WIDTH] = draw_cover(cover)
        boxes.append((left, top, left + WIDTH, top + HEIGHT))
    return Shelf(picture, np.array(boxes, np.float64), covers, target, rows, cols)


def draw_cover(cover: Cover) -> NDArray[np.uint8]:
    """A cover (HEIGHT, WIDTH, 3): its motif in the accent's colour on its hue."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    v, u = (y + 0.5) / HEIGHT - 0.5, (x + 0.5) / WIDTH - 0.5
    motif = MOTIFS[cover.motif]
    inside = {
        "disc": (u * WIDTH / HEIGHT) ** 2 + v**2 < 0.25**2,
        "band": np.abs(v) < 0.16,
        "stripes": (np.floor(4 * (u + 0.5)) % 2) == 1,
        "diamond": np.abs(u) + np.abs(v) < 0.36,
        "frame": np.maximum(np.abs(u), np.abs(v)) > 0.34,
        "half": v > 0.1,
    }[motif]
    ground, figure = (colorsys.hsv_to_rgb(hue, 0.8, value) for hue, value in ((cover.hue, 0.85), (cover.accent, 0.6)))
    drawn = np.where(inside[..., None], np.array(figure), np.array(ground))
    return np.asarray(np.rint(255 * drawn), np.uint8)
