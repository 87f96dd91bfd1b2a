"""Drawn fundus photographs with their vessels: ``--data synthetic``, so that the recipe runs where there are no photos.

Not a model of an eye. What makes the task one is there: trees of vessels that branch and thin out from a bright disc,
dark lines of which some are hardly darker than their surroundings, uneven light, and spots that are no vessels.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

PHOTOS, RADIUS, DIAMETER = 12, 0.48, 270.0
"""How many are drawn; the radius of their field of view in sides; its diameter in px, half of what photos have."""
BASE = np.array([0.72, 0.42, 0.22], np.float32)
DARKER = np.array([0.25, 0.5, 0.35], np.float32)
"""Colour of the ground, and what share of it a vessel takes away: most of the green."""


def draw_photo(seed: tuple[int, ...], side: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """One photo.

    Parameters
    ----------
    seed : tuple of int
    side : int
        In pixels.

    Returns
    -------
    Pixels [3, side, side] in [0, 1], black around the round field of view, and the vessels in it [side, side].
    """
    from PIL import Image, ImageDraw, ImageFilter

    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side].astype(np.float32) / side - 0.5
    field = np.hypot(x, y) < RADIUS
    disc = np.array([generator.choice([-0.22, 0.22]), generator.uniform(-0.06, 0.06)])
    label, depth = Image.new("L", (side, side)), Image.new("L", (side, side))
    pens = ImageDraw.Draw(label), ImageDraw.Draw(depth)
    for start, end, width, shade in vessels(generator, disc):
        line = [tuple((point + 0.5) * side) for point in (start, end)]
        for pen, value in zip(pens, (255, round(255 * shade)), strict=True):
            pen.line(line, fill=value, width=max(1, round(width * side)))
    soft = np.asarray(depth.filter(ImageFilter.GaussianBlur(0.7)), np.float32) / 255
    light = 1 + 0.25 * (generator.uniform(-1, 1) * x + generator.uniform(-1, 1) * y) - 0.5 * (x**2 + y**2)
    spots = np.zeros_like(x)
    for _ in range(12):
        at, size = generator.uniform(-0.4, 0.4, 2), generator.uniform(0.004, 0.02)
        spots += generator.uniform(-0.35, 0.25) * np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / (2 * size**2))
    glow = 0.5 * np.exp(-((x - disc[0]) ** 2 + (y - disc[1]) ** 2) / (2 * 0.04**2))
    pixels = BASE[:, None, None] * (light + spots + glow) * (1 - DARKER[:, None, None] * soft)
    pixels += 0.02 * generator.standard_normal(pixels.shape, np.float32)
    return (pixels.clip(0, 1) * field).astype(np.float32), (np.asarray(label) > 0) & field


Segment = tuple[NDArray[np.float64], NDArray[np.float64], float, float]


def vessels(generator: np.random.Generator, disc: NDArray[np.float64]) -> list[Segment]:
    """Straight pieces of all vessels, in sides of the photo about its middle: from, to, width, depth of the shade."""
    pieces: list[Segment] = []
    tips = [
        (disc, angle + generator.normal(0, 0.25), generator.uniform(0.014, 0.022), generator.uniform(0.4, 1.0))
        for angle in np.arange(8) * math.pi / 4
    ]
    while tips:
        place, angle, width, shade = tips.pop()
        for _ in range(int(generator.integers(4, 9))):
            angle += generator.normal(0, 0.18)
            end = place + 0.03 * np.array([math.cos(angle), math.sin(angle)])
            pieces.append((place, end, width, shade))
            place = end
        if width > 0.004 and np.hypot(*place) < 0.5:
            fork = generator.uniform(0.3, 0.7)
            tips += [(place, angle + sign * fork, width * 0.72, shade * 0.9) for sign in (-1, 1)]
    return pieces
