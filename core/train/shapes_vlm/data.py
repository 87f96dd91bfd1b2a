"""Batches of the recipe: scenes, what each of their patches shows, and packed questions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...prune.shapes.drawing import render
from ...prune.shapes.questions import ask, presence
from ...prune.shapes.scenes import BOX, GRID, OBJECTS, SIDE, Scenes, draw_scenes
from ...prune.shapes.words import ANSWERS, COLOURS, EOS, NUMBER, QUESTIONS, SHAPES, TASK_OF, numbers
from .network import PackedLayout

MEAN, STD = 0.5, 0.25
"""Of pixels in [0, 1], all channels."""
ASKED = {"colour": 3, "exists": 3, "count": 2, "where": 4, "beside": 2, "over": 2, "digit": 1}
"""Questions of each form about one picture."""
FORMS = [form for form, count in ASKED.items() for _ in range(count)]
LEAST_COVERED = 10
"""Pixels of a patch; with fewer it is neither this object nor background."""
IGNORED = -1
_LETTERBOX, _DIGITS = 0.12, 0.6
_SALT = 77001
"""First number of the seeds of training; those of ``prune.shapes.sets`` have another form."""


def layout() -> PackedLayout:
    """Of the questions of ``FORMS``; the first of each form is followed by its answer, from which <eos> is read."""
    lengths, answers, ends, start = [], [], [], 0
    for number, form in enumerate(FORMS):
        words = len(QUESTIONS[form])
        first = form not in FORMS[:number]
        answers.append(start + words - 1)
        if first:
            ends.append(start + words)
        lengths.append(words + first)
        start += lengths[-1]
    return PackedLayout(tuple(lengths), (*answers, *ends))


@dataclass(frozen=True, slots=True)
class PatchLabels:
    """What the patches of B pictures show.

    Parameters
    ----------
    names : dict of str to Tensor of int64 [B, P]
        See ``network.LABELS``; ``IGNORED`` where an object hardly reaches in.
    centre : Tensor [B, P, 2]
        Middle of the patch's object, x and y in [-1, 1].
    present : Tensor [B, 48]
    """

    names: dict[str, Tensor]
    centre: Tensor
    present: Tensor


@dataclass(frozen=True, slots=True)
class SceneBatch:
    """Pictures [B, 3, 96, 96], their labels, and packed questions.

    Parameters
    ----------
    pixels : Tensor
    labels : PatchLabels
    tokens : Tensor of int64 [B, sum of lengths]
    answers : Tensor of int64 [B, Q + forms]
        The word that is to be read at every place of the layout.
    valid : Tensor of bool, the same shape
    """

    pixels: Tensor
    labels: PatchLabels
    tokens: Tensor
    answers: Tensor
    valid: Tensor


def prepared(pictures: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Tensor:
    """uint8 [B, 96, 96, 3] as the model takes it, [B, 3, 96, 96] float32."""
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    return ((pixels - MEAN) / STD).contiguous()


def draw_batch(seed: int, stage: int, step: int, count: int, most: int = OBJECTS) -> SceneBatch:
    """The batch of a step: the same whenever it is drawn."""
    rng = np.random.default_rng([_SALT, seed, stage, step])
    scenes = draw_scenes(rng, count, most=most, letterbox=_LETTERBOX, digits=_DIGITS)
    pixels = prepared(render(rng, scenes))
    tokens, answers, valid = [], [], []
    for number, form in enumerate(FORMS):
        questions = ask(rng, scenes, form)
        word = np.array(numbers(ANSWERS[TASK_OF[form]]))[questions.answer]
        tokens.append(questions.tokens)
        if form not in FORMS[:number]:
            tokens.append(word[:, None])
        answers.append(word)
        valid.append(questions.valid)
    ends = len(ASKED)
    answers += [np.full(count, NUMBER[EOS])] * ends
    valid += [np.ones(count, bool)] * ends
    return SceneBatch(
        pixels, labels_of(scenes), torch.from_numpy(np.concatenate(tokens, 1)),
        torch.from_numpy(np.stack(answers, 1)), torch.from_numpy(np.stack(valid, 1)),
    )  # fmt: skip


def labels_of(scenes: Scenes) -> PatchLabels:
    """Labels of every patch: of the object that covers most of it."""
    covered = scenes.coverage().reshape(len(scenes), OBJECTS + 1, GRID * GRID)
    slot, pixels = covered.argmax(1), covered.max(1)
    row = np.arange(len(scenes))[:, None]
    boxes = np.full((len(scenes), 1), len(SHAPES) + 1), np.full((len(scenes), 1), len(SHAPES) * len(COLOURS) + 1)
    shape = np.concatenate([scenes.shape + 1, boxes[0]], 1)
    colour = np.concatenate([scenes.colour + 1, np.zeros_like(boxes[0])], 1)
    pair = np.concatenate([scenes.shape * len(COLOURS) + scenes.colour + 1, boxes[1]], 1)
    centre = scenes.centres()[row, slot]
    column, line = np.minimum(centre // (SIDE // 3), 2).astype(np.int64).transpose(2, 0, 1)
    names = {
        "shape": shape[row, slot], "colour": colour[row, slot],
        "digit": np.where(slot == BOX, scenes.digit[:, None] + 1, 0), "pair": pair[row, slot],
        "cell": line * 3 + column + 1,
    }  # fmt: skip
    hardly = (pixels > 0) & (pixels < LEAST_COVERED)
    labels = {
        name: torch.from_numpy(np.where(hardly, IGNORED, np.where(pixels > 0, label, 0)).astype(np.int64))
        for name, label in names.items()
    }
    middle = torch.from_numpy((centre / SIDE * 2 - 1).astype(np.float32))
    return PatchLabels(labels, middle, torch.from_numpy(presence(scenes)))
