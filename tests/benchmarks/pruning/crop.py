"""CARVE: does the mask by contrast lie on what is asked about? Against plain attention and a box in the middle.

Source: methods/carve.md, section 6.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn.core.prune.carve.mask import mask_of
from attn.core.prune.carve.method import Carve
from attn.core.prune.data.read import read_samples
from attn.core.prune.shapes.scenes import SIDE
from attn.core.prune.sheets import smooth_on_pixels

TASKS = ("colour", "where", "digit")
NAMES = ("contrast", "plain attention", "box in the middle")
Mask = NDArray[np.bool_]


def masks(loaded: Any, task: str, count: int, seed: int, carve: Carve) -> dict[str, NDArray[np.float64]]:
    """Of each question: recall and precision of each mask, [n, 3, 2], and what the model said before and after."""
    samples = [sample for sample in read_samples(f"shapes:{task}:{seed}x{count}") if sample.boxes is not None]
    measured, right = [], []
    for sample in samples:
        picture = sample.read()
        done = carve.run(loaded, picture, sample.question)
        attention = done.look.attention[-1][list(done.layers)].sum(0)
        plain = smooth_on_pixels(done.look.prepared.pictures[0], attention, picture.pixels.shape[1:])
        found = done.mask if done.mask is not None else np.zeros(plain.shape, bool)
        three = (
            found,
            mask_of(plain, carve.share, carve.regions, rank=carve.rank, regions=carve.count),
            middle(carve.share),
        )
        assert sample.boxes is not None
        wanted = drawn(sample.boxes)
        measured.append([_scores(mask, wanted) for mask in three])
        right.append([done.before == sample.answer, done.after == sample.answer])
    return {"masks": np.array(measured), "right": np.array(right, np.float64)}


def middle(share: float) -> Mask:
    """A square in the middle with a share of the pixels."""
    side = round(SIDE * share**0.5)
    start = (SIDE - side) // 2
    mask = np.zeros((SIDE, SIDE), bool)
    mask[start : start + side, start : start + side] = True
    return mask


def drawn(boxes: NDArray[np.float64]) -> Mask:
    """Boxes as pixels."""
    mask = np.zeros((SIDE, SIDE), bool)
    for x0, y0, x1, y1 in boxes.astype(int):
        mask[y0:y1, x0:x1] = True
    return mask


def _scores(mask: Mask, wanted: Mask) -> tuple[float, float]:
    """Share of what is wanted that the mask holds, and share of the mask that is wanted (0 of an empty one)."""
    both = float((mask & wanted).sum())
    return both / wanted.sum(), both / mask.sum() if mask.any() else 0.0
