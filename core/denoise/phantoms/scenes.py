"""The solids of a phantom series, in the order in which they are painted."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .phantom import KINDS
from .single import BACKGROUND, INSERT_RADII, SIDES
from .solids import Painted, Solid, Texture

ALONG = (0.68, (-60, -20, -10, -5, 5, 10, 20, 60))
"""Inserts that run through all slices: where their ring is, as a share of half the slice, and their contrasts in HU."""
SPHERES = (0.36, (-40, -14, -7, 7, 14, 40))
"""The same of the inserts that are balls."""


class Anatomy:
    """Solids that are being laid out. Everything random in it comes from the kind and the seed.

    Parameters
    ----------
    kind : str
    seed : int
    half_mm : float
        Half the slice's width.
    reach_mm : float
        Half the height of the stack: what comes and goes is placed within it.
    """

    def __init__(self, kind: str, seed: int, half_mm: float, reach_mm: float) -> None:
        self.rng = np.random.default_rng([KINDS.index(kind), seed, 3])
        self.seed, self.h, self.q, self.reach = seed, half_mm, half_mm / 90.0, reach_mm
        self.items: list[Painted] = []

    def add(self, solid: Solid, hu: float, texture: Texture | None = None, clip: Solid | None = None) -> None:
        self.items.append(Painted(solid, hu, texture, clip))

    def u(self, low: float, high: float) -> float:
        """A number between two, evenly."""
        return float(self.rng.uniform(low, high))

    def anywhere(self) -> float:
        """A height within the stack."""
        return self.u(-self.reach, self.reach)

    def lean(self, most: float) -> dict[str, Any]:
        """Keywords of a solid that leans by up to ``most`` and has no ends."""
        return {"tx": self.u(-most, most), "ty": self.u(-most, most), "cz": self.anywhere()}


def lay_out(kind: str, seed: int, half_mm: float, reach_mm: float) -> list[Painted]:
    """The solids of one kind, first painted first. Parameters as of `Anatomy`."""
    scene = Anatomy(kind, seed, half_mm, reach_mm)
    if kind == "head":
        _head(scene)
    elif kind == "inserts":
        _inserts(scene)
    else:
        a, b = _wall(scene, inside=-95 if kind == "abdomen" else 30)
        (_abdomen if kind == "abdomen" else _chest)(scene, a, b)
        _spine(scene, b)
    return scene.items


def _wall(s: Anatomy, inside: float) -> tuple[float, float]:
    """Fat, muscle, ribs that slide along the wall, and what fills the trunk. Returns the trunk's half axes."""
    u, q = s.u, s.q
    a, b, ring = s.h * u(0.86, 0.93), s.h * u(0.66, 0.78), u(8, 12) * q
    tall: dict[str, Any] = {"c": u(6, 12) * 10, "cz": u(-20, 20)}
    s.add(Solid(0, 0, a, b, **tall), -100, Texture(1, 2.5, 8))
    s.add(Solid(0, 0, a - ring, b - ring, **tall), 50, Texture(2, 2, 4))
    s.add(Solid(0, 0, a - ring - 6 * q, b - ring - 6 * q, **tall), inside, Texture(3, 3, 8))
    for angle in np.linspace(0, 2 * math.pi, 13, endpoint=False):
        x, y = (a - ring - 3) * math.cos(angle), (b - ring - 3) * math.sin(angle)
        turn = math.degrees(math.atan2(b * math.cos(angle), -a * math.sin(angle)))
        slide = u(0.3, 0.8)
        tx, ty, cz, c = -slide * math.sin(angle), slide * math.cos(angle), s.anywhere(), u(5, 14)
        s.add(Solid(x, y, 6 * q, 3 * q, turn, cz, c, tx, ty), u(500, 900))
        s.add(Solid(x, y, 4.5 * q, 1.6 * q, turn, cz, c - 1.2, tx, ty), u(100, 250), Texture(4, 1.0, 60))
    return a, b


def _abdomen(s: Anatomy, a: float, b: float) -> None:
    u, q, choice = s.u, s.q, s.rng.choice
    liver = Solid(-0.36 * a, -0.1 * b, 0.40 * a, 0.48 * b, u(-15, 15), cz=u(-10, 10), c=u(20, 40))
    s.add(liver, 95, Texture(5, 1.5, 7))

    def within() -> tuple[float, float]:
        return -0.36 * a + u(-0.26, 0.26) * a, -0.1 * b + u(-0.28, 0.28) * b

    for _ in range(14):  # vessels, oblique
        r = u(0.8, 3.0)
        x, y = within()
        b_, turn, cz, tx, ty, c = r * u(0.6, 1), u(0, 180), s.anywhere(), u(-1.2, 1.2), u(-1.2, 1.2), u(4, 12)
        s.add(Solid(x, y, r, b_, turn, cz, c, tx, ty), 95 + choice([-30, 25, 50]), Texture(6, 1.5, 3), liver)
    for _ in range(8):  # lesions: round
        r = u(1.5, 5)
        x, y = within()
        ball = Solid(x, y, r, r, cz=s.anywhere(), c=r)
        s.add(ball, 95 + choice([-40, -25, -15, 20, 30]), Texture(6, 1.5, 3), liver)
    for side in SIDES:  # kidneys
        cz, c = u(-12, 12), u(12, 25)
        s.add(Solid(side * 0.42 * a, 0.42 * b, 15 * q, 10 * q, side * 40, cz, c), 150, Texture(7, 1.5, 6))
        s.add(Solid(side * 0.40 * a, 0.41 * b, 6 * q, 3.5 * q, side * 40, cz, c / 2), -20, Texture(7, 1.5, 6))
    spleen = Solid(0.48 * a, -0.12 * b, 14 * q, 11 * q, 20, cz=u(-8, 8), c=u(8, 20), flat=bool(s.seed % 2))
    s.add(spleen, 110, Texture(8, 1.5, 6))  # ends inside the stack
    for _ in range(9):  # bowel: wall and content or gas
        x, y, r = u(0, 0.5) * a, u(-0.5, 0.2) * b, u(5, 10) * q
        lean: dict[str, Any] = {"tx": u(-0.7, 0.7), "ty": u(-0.7, 0.7), "cz": s.anywhere()}
        content, c = choice([-900.0, 10.0, 30.0]), u(5, 14)
        s.add(Solid(x, y, r, r * 0.8, u(0, 180), c=c, **lean), 60)
        s.add(Solid(x, y, r - 2, 0.8 * r - 2, u(0, 180), c=c - 2, **lean), content)


def _chest(s: Anatomy, a: float, b: float) -> None:
    u, choice = s.u, s.rng.choice
    for side in SIDES:
        x0 = side * 0.45 * a
        lung = Solid(x0, -0.05 * b, 0.30 * a, 0.55 * b, side * -8, cz=u(-15, 15), c=u(20, 45))
        s.add(lung, -860, Texture(9, 1.5, 25))
        for _ in range(45):  # vessels
            r = u(0.4, 2.0)
            x, y, a_, turn = x0 + u(-0.3, 0.3) * a, u(-0.55, 0.5) * b, r * u(1, 3), u(0, 180)
            cz, tx, ty, c = s.anywhere(), u(-1.5, 1.5), u(-1.5, 1.5), u(3, 14)
            s.add(Solid(x, y, a_, r, turn, cz, c, tx, ty), u(-100, 60), None, lung)
        for _ in range(5):  # nodules
            r = u(1.5, 5)
            ball = Solid(x0 + u(-0.2, 0.2) * a, u(-0.4, 0.35) * b, r, r, cz=s.anywhere(), c=r)
            s.add(ball, choice([-650.0, -300.0, 40.0]), None, lung)
    s.add(Solid(0, -0.1 * b, 0.16 * a, 0.3 * b, **s.lean(0.3)), 45, Texture(10, 2, 5))  # heart and mediastinum
    s.add(Solid(0.03 * a, -0.05 * b, 0.08 * a, 0.14 * b, 30, **s.lean(0.3)), 170, Texture(10, 2, 5))
    s.add(Solid(-0.05 * a, -0.32 * b, 6 * s.q, 6 * s.q, **s.lean(0.2)), -1000)


def _spine(s: Anatomy, b: float) -> None:
    """Vertebrae with discs between, canal and process."""
    q, z0 = s.q, s.anywhere()
    for lift in (-30, 0, 30):
        s.add(Solid(0, 0.58 * b, 14 * q, 11 * q, cz=z0 + lift, c=12, flat=True), 600)
        s.add(Solid(0, 0.58 * b, 12.5 * q, 9.5 * q, cz=z0 + lift, c=11, flat=True), 220, Texture(11, 0.9, 70))
    s.add(Solid(0, 0.58 * b + 14 * q, 6 * q, 5 * q), 40)
    s.add(Solid(0, 0.58 * b + 20 * q, 3 * q, 7 * q, cz=z0, c=8), 700)


def _head(s: Anatomy) -> None:
    u, q, choice = s.u, s.q, s.rng.choice
    a, b, z0 = s.h * u(0.70, 0.78), s.h * u(0.86, 0.92), u(-30, 30)
    whole: dict[str, Any] = {"cz": z0, "c": 85, "tx": u(-0.05, 0.05)}
    skull = (
        (0, 30, Texture(1, 2, 10)),
        (5, 1100, None),
        (7, 500, Texture(2, 0.9, 120)),
        (9, 1000, None),
        (11, 8, None),
    )
    for depth, hu, texture in skull:
        s.add(Solid(0, 0, a - depth * q, b - depth * q, **whole), hu, texture)
    brain = Solid(0, 0, a - 13 * q, b - 13 * q, **whole)
    s.add(brain, 38, Texture(3, 5.0, 1.0, fold=10.0))
    s.add(Solid(0, 0, a - 25 * q, b - 28 * q, **whole), 28, Texture(4, 2, 2))  # white matter
    for side in SIDES:
        tx, ty, cz, c = side * u(0.1, 0.4), u(-0.3, 0.3), u(-10, 10), u(10, 20)
        s.add(Solid(side * 9 * q, -6 * q, 4 * q, 20 * q, side * -12, cz, c, tx, ty), 6)  # ventricles
        nucleus = Solid(side * 22 * q, -2 * q, 6 * q, 12 * q, side * 15, cz=u(-10, 10), c=u(8, 20))
        s.add(nucleus, 40, Texture(5, 2, 2))
    for _ in range(14):  # bleeding, infarct, calcification
        r = u(1, 6)
        x, y, b_, turn = u(-0.5, 0.5) * a, u(-0.55, 0.55) * b, r * u(0.6, 1), u(0, 180)
        s.add(Solid(x, y, r, b_, turn, s.anywhere(), r), choice([22.0, 30.0, 55.0, 70.0, 200.0]), None, brain)
    for _ in range(8):  # vessels
        r = u(0.6, 1.5)
        x, y, cz, c, tx, ty = u(-0.5, 0.5) * a, u(-0.55, 0.55) * b, s.anywhere(), u(4, 15), u(-1.5, 1.5), u(-1.5, 1.5)
        s.add(Solid(x, y, r, r, 0.0, cz, c, tx, ty), choice([60.0, 90.0, 150.0]), None, brain)
    s.add(Solid(0.2 * a, 0.72 * b, 10 * q, 8 * q, cz=u(-8, 8), c=u(4, 9)), -900)  # air cells


def _inserts(s: Anatomy) -> None:
    """Rods along the axis, balls, wires that lean, and a slab that starts between two slices."""
    u, h = s.u, s.h
    s.add(Solid(0, 0, 0.9 * h, 0.9 * h), BACKGROUND)
    s.add(Solid(0, 0.45 * h, 0.5 * h, 0.2 * h, cz=25, c=25 + u(-1, 1), flat=True), 90)
    for ring, contrasts in (ALONG, SPHERES):
        for i, contrast in enumerate(contrasts):
            angle = 2 * math.pi * i / len(contrasts) + u(0, 0.3)
            r = INSERT_RADII[i % 4] * s.q
            ball: dict[str, Any] = {} if ring == ALONG[0] else {"cz": s.anywhere(), "c": r}
            s.add(Solid(ring * h * math.cos(angle), ring * h * math.sin(angle), r, r, **ball), BACKGROUND + contrast)
    for _ in range(6):
        wire = Solid(u(-0.5, 0.5) * h, u(-0.5, 0.2) * h, 1.2, 1.2, tx=u(-2, 2), ty=u(-2, 2), cz=s.anywhere())
        s.add(wire, s.rng.choice([140.0, 340.0]))
    s.add(Solid(0.8 * h, 0.0, 4, 4, tx=0.1), 1000)
    s.add(Solid(-0.8 * h, 0.0, 5, 5, ty=0.3), -1000)
    s.add(Solid(0, -0.8 * h, 0.3 * h, 0.05 * h), 60, Texture(12, 2.5, 12))
