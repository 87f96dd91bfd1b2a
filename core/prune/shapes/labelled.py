"""Pictures with a class: windows of scenes in which one object is larger than all others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .drawing import render
from .scenes import OBJECTS, SIDE, SIZES, Ints, draw_scenes
from .sets import TEST
from .words import COLOURS, SHAPES

CLASSES = tuple(f"{colour} {shape}" for shape in SHAPES for colour in COLOURS)
WINDOW = 64
"""Side of what is seen of a scene, in pixels."""
DISTRACTED: dict[str, Any] = {"most": 3, "digits": 0.3}
"""For ``draw_scenes``: up to two smaller objects beside the large one, and a digit in a box in some scenes."""
_SALT = 64064
"""Of the sets that models are judged by; training draws from seeds of another form."""


@dataclass(frozen=True, slots=True)
class LabelledScenes:
    """n pictures; the class is colour and shape of the one object of the largest size.

    Parameters
    ----------
    pictures : ndarray of uint8 [n, side, side, 3]
    label : ndarray of int [n]
        Number in ``CLASSES``.
    box : ndarray of int [n, 4]
        x0, y0, x1, y1 of the object in the picture, in pixels.
    """

    pictures: NDArray[np.uint8]
    label: Ints
    box: Ints

    def __len__(self) -> int:
        return len(self.label)

    def name(self, number: int) -> str:
        """Of the class of one picture."""
        return CLASSES[int(self.label[number])]


def labelled_scenes(rng: np.random.Generator, count: int, side: int = WINDOW, **scenes: Any) -> LabelledScenes:
    """Pictures at random.

    Parameters
    ----------
    rng : Generator
    count : int
    side : int
        Of the window, in pixels; the object lies in it whole.
    **scenes
        For ``draw_scenes``; what they leave open is drawn by the same generator.
    """
    # about 0.3 of all scenes, or more, have one largest object
    drawn = draw_scenes(rng, 4 * count + 40, **scenes)
    large = drawn.present[:, :OBJECTS] & (drawn.side[:, :OBJECTS] == SIZES.max())
    chosen = np.flatnonzero(large.sum(1) == 1)[:count]
    assert len(chosen) == count
    slot, drawn = large[chosen].argmax(1), drawn.select(chosen)
    row = np.arange(count)
    box = drawn.boxes()[row, slot]
    corner = rng.integers(np.maximum(0, box[:, 2:] - side), np.minimum(SIDE - side, box[:, :2]) + 1)
    pictures = render(rng, drawn)
    windows = [picture[y : y + side, x : x + side] for picture, (x, y) in zip(pictures, corner, strict=True)]
    label = drawn.shape[row, slot] * len(COLOURS) + drawn.colour[row, slot]
    return LabelledScenes(np.stack(windows), label, box - np.tile(corner, 2))


def labelled_set(count: int, *, seed: int = TEST) -> LabelledScenes:
    """What a classifier is judged by: the same from the same seed, see ``sets.DEVELOPMENT`` and ``sets.TEST``."""
    return labelled_scenes(np.random.default_rng([seed, _SALT]), count, **DISTRACTED)
