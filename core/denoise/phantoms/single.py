"""One slice of a phantom: trunk, head, or a disc of inserts."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .canvas import Canvas
from .phantom import KERNELS, KINDS, Insert, Phantom, averaged, check_geometry, check_name, disc, even_disc, kernel_blur

SIDES = (-1, 1)
"""Left and right."""
LOW_CONTRASTS = ((0.62, (-60, -20, -10, -5, 5, 10, 20, 60)), (0.36, (-40, -14, -7, 7, 14, 40)))
"""Of the inserts: where the ring is, as a share of half the slice, and what stands on it, in HU."""
INSERT_RADII = (2.5, 4, 6, 8)
"""In turn, in mm where half the slice is 112 mm."""
BACKGROUND = 40.0
"""HU that the inserts stand in."""


def draw_slice(
    kind: str, seed: int, *, side: int = 320, pixel_mm: float = 0.7, cutoff_per_mm: float = KERNELS["standard"]
) -> Phantom:
    """A random CT slice without noise.

    Parameters
    ----------
    kind : str
        One of `attn.core.denoise.phantoms.phantom.KINDS`.
    seed : int
        Same kind, seed and geometry, same pixels. At least 0.
    side : int
        Pixels along each side. The body fills the slice whatever it is.
    pixel_mm : float
        Side of a pixel.
    cutoff_per_mm : float
        Cycles per mm at which the reconstruction kernel ends; larger is sharper.

    Returns
    -------
    Phantom, of one slice.

    Raises
    ------
    ValueError
        For an unknown kind, a negative seed, or a geometry that cannot be drawn.

    References
    ----------
    methods/adaptive-denoise.md, section 5.
    """
    check_name(kind, seed)
    check_geometry(side, pixel_mm=pixel_mm, cutoff_per_mm=cutoff_per_mm)
    canvas = Canvas(side, pixel_mm, np.random.default_rng([KINDS.index(kind), seed]))
    inserts, rods = PAINTERS[kind](canvas)
    truth = kernel_blur(averaged(canvas.hu), pixel_mm, cutoff_per_mm)[None]  # [1, H, W]
    uniform = even_disc(truth, BACKGROUND) if inserts else None
    return Phantom(kind, seed, truth, pixel_mm, cutoff_per_mm, inserts=inserts, rods=rods, uniform=uniform)


Measured = tuple[tuple[Insert, ...], tuple[Insert, ...]]
"""Inserts, and rods."""
NOTHING: Measured = ((), ())


def paint_abdomen(c: Canvas) -> Measured:
    """Liver with vessels and lesions, kidneys, spleen, bowel, spine."""
    a, b = _wall(c, inside=-95)
    u, choice = c.rng.uniform, c.rng.choice
    c.paint(c.ellipse(-0.36 * a, -0.1 * b, 0.40 * a, 0.48 * b, u(-15, 15)), 95, 7, 1.5)  # liver
    for _ in range(14):  # vessels and lesions in it
        r = u(0.8, 5.0)
        x, y = -0.36 * a + u(-0.26, 0.26) * a, -0.1 * b + u(-0.28, 0.28) * b
        mask = c.ellipse(x, y, r, r * u(0.6, 1), u(0, 180))
        c.paint(mask, 95 + choice([-30, -18, -10, 12, 25, 50]), 3, 1.5)
    for side in SIDES:  # kidneys
        c.paint(c.ellipse(side * 0.42 * a, 0.42 * b, 15, 10, side * 40), 150, 6, 1.5)
        c.paint(c.ellipse(side * 0.40 * a, 0.41 * b, 6, 3.5, side * 40), -20, 6, 1.5)
    c.paint(c.ellipse(0.48 * a, -0.12 * b, 14, 11, 20), 110, 6, 1.5)  # spleen
    for _ in range(9):  # bowel: wall and content or gas
        x, y, r = u(0, 0.5) * a, u(-0.5, 0.2) * b, u(5, 10)
        c.paint(c.ellipse(x, y, r, r * 0.8, u(0, 180)), 60)
        c.paint(c.ellipse(x, y, r - 2, 0.8 * r - 2, u(0, 180)), choice([-900.0, 10.0, 30.0]))
    _spine(c, b)
    return NOTHING


def paint_chest(c: Canvas) -> Measured:
    """Lungs with vessels and nodules, heart, aorta, trachea, spine."""
    a, b = _wall(c, inside=30)
    u, choice = c.rng.uniform, c.rng.choice
    for side in SIDES:
        x = side * 0.45 * a
        lung = c.ellipse(x, -0.05 * b, 0.30 * a, 0.55 * b, side * -8)
        c.paint(lung, -860, 25, 1.5)
        for _ in range(45):  # vessels across and along the slice
            r, q = u(0.4, 2.2), u(1, 5)
            mask = c.ellipse(x + u(-0.3, 0.3) * a, u(-0.55, 0.5) * b, r * q, r, u(0, 180)) & lung
            c.paint(mask, u(-100, 60))
        for _ in range(4):  # nodules
            r = u(1.5, 5)
            mask = c.ellipse(x + u(-0.2, 0.2) * a, u(-0.4, 0.35) * b, r, r) & lung
            c.paint(mask, choice([-650.0, -300.0, 40.0]))
    c.paint(c.ellipse(0, -0.1 * b, 0.16 * a, 0.3 * b), 45, 5, 2)  # heart and mediastinum
    c.paint(c.ellipse(0.03 * a, -0.05 * b, 0.08 * a, 0.14 * b, 30), 170, 5, 2)
    c.paint(c.ellipse(-0.05 * a, -0.32 * b, 7, 7), -1000)
    _spine(c, b)
    return NOTHING


def _wall(c: Canvas, inside: float) -> tuple[float, float]:
    """Fat, muscle, ribs, and what fills the trunk. Returns the trunk's half axes."""
    u = c.rng.uniform
    a, b = c.half * u(0.86, 0.93), c.half * u(0.66, 0.78)
    c.paint(c.ellipse(0, 0, a, b), -100, 8, 2.5)  # fat
    ring = u(8, 14)
    c.paint(c.ellipse(0, 0, a - ring, b - ring), 50, 4, 2)  # muscle
    c.paint(c.ellipse(0, 0, a - ring - 8, b - ring - 8), inside, 8, 3)
    for angle in np.linspace(0, 2 * math.pi, int(u(12, 18)), endpoint=False):  # ribs: cortical shell, marrow
        x, y = (a - ring - 4) * math.cos(angle), (b - ring - 4) * math.sin(angle)
        turn = math.degrees(math.atan2(b * math.cos(angle), -a * math.sin(angle)))
        c.paint(c.ellipse(x, y, 6, 3, turn), u(500, 900))
        c.paint(c.ellipse(x, y, 4.5, 1.6, turn), u(100, 250), 60, 1.0)
    return a, b


def _spine(c: Canvas, b: float) -> None:
    """Vertebra with its marrow, canal and process."""
    c.paint(c.ellipse(0, 0.58 * b, 15, 12), 600)
    c.paint(c.ellipse(0, 0.58 * b, 13, 10), 220, 70, 0.9)
    c.paint(c.ellipse(0, 0.58 * b + 15, 6, 5), 40)
    c.paint(c.ellipse(0, 0.58 * b + 22, 3, 8), 700)


def paint_head(c: Canvas) -> Measured:
    """Skull, brain with sulci and ventricles, bleeding, infarct, calcification."""
    u, choice = c.rng.uniform, c.rng.choice
    a, b = c.half * u(0.68, 0.75), c.half * u(0.84, 0.9)
    c.paint(c.ellipse(0, 0, a, b), 30, 10, 2)
    c.paint(c.ellipse(0, 0, a - 6, b - 6), 1100)
    c.paint(c.ellipse(0, 0, a - 8, b - 8), 500, 120, 0.9)
    c.paint(c.ellipse(0, 0, a - 11, b - 11), 1000)
    c.paint(c.ellipse(0, 0, a - 13, b - 13), 8)  # cerebrospinal fluid
    brain = c.ellipse(0, 0, a - 16, b - 16)
    c.paint(brain, 38, 2, 2)
    folds, white = c.texture(5.0, 1.0), c.ellipse(0, 0, a - 30, b - 34)
    c.hu[brain & white] -= 10  # white matter
    c.hu[brain & ~white & (folds > 0.9)] = 10  # sulci
    for side in SIDES:
        c.paint(c.ellipse(side * 9, -6, 4, 20, side * -12), 6)  # ventricles
        c.paint(c.ellipse(side * 22, -2, 6, 12, side * 15), 40, 2, 2)
    for _ in range(10):  # bleeding, infarct, calcification
        r = u(1, 7)
        mask = c.ellipse(u(-0.5, 0.5) * a, u(-0.55, 0.55) * b, r, r * u(0.6, 1), u(0, 180))
        c.paint(mask, choice([22.0, 30.0, 55.0, 70.0, 200.0]))
    c.paint(c.ellipse(0.2 * a, 0.72 * b, 10, 8), -900)  # air cells
    return NOTHING


def paint_inserts(c: Canvas) -> Measured:
    """An even disc with low-contrast inserts, line pairs, a rod of bone, a hole, and two textures at its rim."""
    h = c.half
    c.paint(c.ellipse(0, 0, 0.9 * h, 0.9 * h), BACKGROUND)
    inserts, rods = [], []

    def put(x: float, y: float, r: float, hu: float) -> Insert:
        c.paint(c.ellipse(x, y, r, r), hu)
        return disc(x, y, r, hu - BACKGROUND, side=c.side, pixel_mm=c.pixel_mm)

    for ring, contrasts in LOW_CONTRASTS:
        for i, contrast in enumerate(contrasts):
            angle = 2 * math.pi * i / len(contrasts) + c.rng.uniform(0, 0.3)
            r = INSERT_RADII[i % 4] * h / 112
            inserts.append(put(ring * h * math.cos(angle), ring * h * math.sin(angle), r, BACKGROUND + contrast))
    for i, period in enumerate((2.0, 2.8, 4.0, 6.0)):  # line pairs, 60 and 300 HU
        box = (np.abs(c.y - (-0.18 + 0.1 * i) * h) < 0.035 * h) & (np.abs(c.x) < 0.2 * h)
        bars = np.broadcast_to(np.sin(2 * math.pi * c.x / period) > 0, box.shape)
        c.paint(box & bars, BACKGROUND + (60 if i % 2 else 300))
    rods.append(put(0.8 * h, 0.0, 4, 1000))
    rods.append(put(-0.8 * h, 0.0, 5, -1000))
    for y, a, hu, std, correlation_mm in ((0.8 * h, 0.25 * h, -100, 10, 1.5), (-0.8 * h, 0.3 * h, 60, 12, 2.5)):
        c.paint(c.ellipse(0, y, a, 0.05 * h), hu, std, correlation_mm)
    return tuple(inserts), tuple(rods)


PAINTERS: dict[str, Callable[[Canvas], Measured]] = {
    "abdomen": paint_abdomen,
    "chest": paint_chest,
    "head": paint_head,
    "inserts": paint_inserts,
}
