"""Sets of questions to judge a model by: as many of every answer, the same from the same seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .drawing import render
from .questions import Questions, ask
from .scenes import Ints, Scenes, draw_scenes
from .words import ANSWERS, FORMS_OF, TASKS, WORDS

DEVELOPMENT, TEST = 2, 1
"""Seeds: choices are made on the first, the second is reported."""
_SALT = 12345
"""Training draws from other streams; see ``train.shapes_vlm``."""
_AT_ONCE = 512


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """n questions of one task.

    Parameters
    ----------
    task : str
    pictures : ndarray of uint8 [n, 96, 96, 3]
        Letterboxed ones with their grey bars.
    tokens : tuple of ndarray of int [L]
        Of the questions.
    answer : ndarray of int [n]
        Number in ``words.ANSWERS[task]``.
    scenes : Scenes
    evidence : ndarray of bool [n, 7]
        See ``Questions``.
    """

    task: str
    pictures: NDArray[np.uint8]
    tokens: tuple[Ints, ...]
    answer: Ints
    scenes: Scenes
    evidence: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.answer)

    def question(self, number: int) -> str:
        """In words."""
        return " ".join(WORDS[token] for token in self.tokens[number])

    def answer_word(self, number: int) -> str:
        return ANSWERS[self.task][int(self.answer[number])]

    def evidence_pixels(self) -> Ints:
        """Pixels of the evidence in every patch, [n, 12, 12]."""
        out: Ints = (self.scenes.coverage() * self.evidence[..., None, None]).sum(1)
        return out

    def evidence_boxes(self, number: int) -> list[tuple[int, int, int, int]]:
        """x0, y0, x1, y1 of the evidence of one question, in pixels."""
        return [tuple(box) for box in self.scenes.boxes()[number][self.evidence[number]].tolist()]

    def uncropped(self, number: int) -> NDArray[np.uint8]:
        """The picture without bars, [h, w, 3]: what a user would have, whose letterboxing makes ``pictures``."""
        x0, y0, x1, y1 = self.scenes.region[number]
        return self.pictures[number, y0:y1, x0:x1]


def evaluation_set(task: str, count: int = 2000, *, seed: int = TEST, **scenes: Any) -> EvaluationSet:
    """Questions of one task.

    Parameters
    ----------
    task : str
        One of ``words.TASKS``.
    count : int
    seed : int
    **scenes
        For ``draw_scenes``: letterbox, band, density, …

    Raises
    ------
    KeyError
        For another task.
    """
    rng = np.random.default_rng([seed, TASKS.index(task), _SALT])
    answers = len(ANSWERS[task])
    left = np.full(answers, count // answers)
    left[: count - left.sum()] += 1
    if task == "digit":
        scenes.setdefault("digits", 1.0)
    drawn: list[tuple[NDArray[np.uint8], Questions, Scenes]] = []
    turn = 0
    while left.any():
        form = FORMS_OF[task][turn % len(FORMS_OF[task])]
        turn += 1
        every = draw_scenes(rng, _AT_ONCE, **scenes)
        asked = ask(rng, every, form)
        chosen = []
        for number in np.nonzero(asked.valid)[0]:
            if left[asked.answer[number]]:
                left[asked.answer[number]] -= 1
                chosen.append(number)
        index = np.array(chosen, np.int64)
        some = every.select(index)
        drawn.append((render(rng, some), Questions(*(getattr(asked, n)[index] for n in _FIELDS)), some))
    order = rng.permutation(count)
    tokens = [row for _, questions, _ in drawn for row in questions.tokens]
    joined = {field: np.concatenate([getattr(part, field) for _, _, part in drawn])[order] for field in _SCENE_FIELDS}
    return EvaluationSet(
        task, np.concatenate([pictures for pictures, _, _ in drawn])[order], tuple(tokens[number] for number in order),
        np.concatenate([questions.answer for _, questions, _ in drawn])[order], Scenes(**joined),
        np.concatenate([questions.evidence for _, questions, _ in drawn])[order],
    )  # fmt: skip


_FIELDS = ("tokens", "answer", "evidence", "valid")
_SCENE_FIELDS = tuple(Scenes.__dataclass_fields__)
