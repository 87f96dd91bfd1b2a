"""Drawn questions as batches of equal length, with what is evidence and what is padding among their visual tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attn.core.models.geometry import Geometry, PatchGrid
from attn.core.prune.measure.evidence import evidence, padding
from attn.core.prune.shapes.scenes import GRID, SIDE
from attn.core.prune.shapes.sets import EvaluationSet, evaluation_set
from attn.core.prune.shapes.words import ANSWERS, BOS, IMAGE, NUMBER

TOKENS = GRID * GRID
MEAN, DEVIATION = 0.5, 0.25
AT_ONCE = 32
"""Fastest on one core: larger batches leave its cache."""


@dataclass(frozen=True)
class Asked:
    """Questions of one task.

    Parameters
    ----------
    questions : EvaluationSet
    right : ndarray of int [n]
        Token of the answer.
    evidence : ndarray of bool [n, 144]
    outside : ndarray of float [n, 144]
        Share of each token that is padding.
    geometry : tuple of Geometry
        Of each picture without its grey bars.
    """

    questions: EvaluationSet
    right: NDArray[np.int64]
    evidence: NDArray[np.bool_]
    outside: NDArray[np.float64]
    geometry: tuple[Geometry, ...]

    def __len__(self) -> int:
        return len(self.right)

    def batches(self, size: int = AT_ONCE) -> Iterator[Batch]:
        """All questions, those of one length side by side."""
        lengths = np.array([len(tokens) for tokens in self.questions.tokens])
        for length in np.unique(lengths):
            for start in range(0, int((lengths == length).sum()), size):
                yield self.batch(np.nonzero(lengths == length)[0][start : start + size])

    def batch(self, index: NDArray[np.int64]) -> Batch:
        text = torch.from_numpy(np.stack([self.questions.tokens[number] for number in index]))
        front = torch.tensor([NUMBER[BOS], *[NUMBER[IMAGE]] * TOKENS]).expand(len(index), -1)
        ids = torch.cat([front, text], 1)
        pixels = torch.from_numpy(self.questions.pictures[index].astype(np.float32)).permute(0, 3, 1, 2)
        inputs = {
            "input_ids": ids, "attention_mask": torch.ones_like(ids),
            "pixel_values": ((pixels / 255 - MEAN) / DEVIATION).contiguous(),
        }  # fmt: skip
        names = tuple(f"{self.questions.task} {number}" for number in index)
        return Batch(inputs, tuple((self.geometry[number],) for number in index), names, index)


@dataclass(frozen=True)
class Batch:
    """Some questions, as the model takes them."""

    inputs: dict[str, Tensor]
    pictures: tuple[tuple[Geometry, ...], ...]
    names: tuple[str, ...]
    index: NDArray[np.int64]


@lru_cache(maxsize=4)
def asked(task: str, count: int, seed: int, **scenes: Any) -> Asked:
    """Questions of a task, as ``evaluation_set`` draws them."""
    questions = evaluation_set(task, count, seed=seed, **scenes)
    places = tuple(_geometry(region) for region in questions.scenes.region)
    found, outside = np.zeros((count, TOKENS), bool), np.zeros((count, TOKENS))
    for number, place in enumerate(places):
        if boxes := questions.evidence_boxes(number):
            x0, y0 = questions.scenes.region[number, :2]
            found[number, evidence(place, np.array(boxes, np.float64) - [x0, y0, x0, y0]).numpy()] = True
        if questions.scenes.letterbox[number]:
            outside[number] = padding(place).numpy()
    right = np.array([NUMBER[ANSWERS[task][answer]] for answer in questions.answer])
    return Asked(questions, right, found, outside, places)


def _geometry(region: NDArray[np.int64]) -> Geometry:
    """A picture between its grey bars, in its own pixels."""
    x0, y0, x1, y1 = (int(edge) for edge in region)
    box = (float(-y0), float(-x0), float(SIDE - y0), float(SIDE - x0))
    return Geometry((y1 - y0, x1 - x0), 0, 0, (PatchGrid(0, (GRID, GRID), box),))
