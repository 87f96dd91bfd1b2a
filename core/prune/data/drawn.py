"""Scenes that are drawn: ``shapes[:TASK][:SEED]xN``; and pictures with a class, ``shapes[:SEED]xN``."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from ...errors import UsageError, did_you_mean
from ..shapes.labelled import LabelledScenes, labelled_set
from ..shapes.sets import evaluation_set
from ..shapes.words import TASKS
from .samples import QuestionSample

_SPELT = re.compile(r"shapes(?::(?P<task>[a-z]+))?(?::(?P<seed>\d{1,9}))?x(?P<count>\d{1,7})")


def is_drawn(source: str) -> bool:
    """Whether a source names drawn scenes."""
    return _SPELT.fullmatch(source) is not None


def drawn_samples(source: str, seed: int, **scenes: Any) -> tuple[QuestionSample, ...]:
    """N questions of a task, or of all tasks in equal parts; ``seed`` is that of sources that name none.

    ``scenes`` are for ``shapes.sets.evaluation_set``: density, band, …

    Raises
    ------
    UsageError
        If there is no such task, or N is 0.
    """
    spelt = _SPELT.fullmatch(source)
    assert spelt is not None
    task, count = spelt["task"], int(spelt["count"])
    if task is not None and task not in TASKS:
        hint = did_you_mean(task, TASKS) or f"Known: {', '.join(TASKS)}."
        raise UsageError(f"{source}: no task named {task!r}. {hint}")
    if not count:
        raise UsageError(f"{source}: no scene is to be drawn. Write how many behind x, as in shapesx100.")
    tasks = (task,) if task else TASKS
    parts = np.full(len(tasks), count // len(tasks))
    parts[: count - parts.sum()] += 1
    samples = []
    for name, part in zip(tasks, parts.tolist(), strict=True):
        if not part:
            continue  # fewer samples than tasks
        drawn = evaluation_set(name, part, seed=int(spelt["seed"] or seed), **scenes)
        for number in range(part):
            boxes = drawn.evidence_boxes(number)
            samples.append(
                QuestionSample(
                    f"{name} {number + 1}",
                    drawn.pictures[number],
                    drawn.question(number),
                    (drawn.answer_word(number),),
                    name,
                    np.array(boxes, np.float64) if boxes else None,
                )
            )
    return tuple(samples)


def drawn_classes(source: str, seed: int) -> LabelledScenes:
    """N pictures with a class and the box of its object; ``seed`` is that of sources that name none.

    Raises
    ------
    UsageError
        If the source names a task, which these pictures do not have, or N is 0.
    """
    spelt = _SPELT.fullmatch(source)
    assert spelt is not None
    if spelt["task"] is not None:
        raise UsageError(f"{source}: pictures with a class have no task. Write shapes[:SEED]xN, as in shapesx100.")
    if not int(spelt["count"]):
        raise UsageError(f"{source}: no picture is to be drawn. Write how many behind x, as in shapesx100.")
    return labelled_set(int(spelt["count"]), seed=int(spelt["seed"] or seed))
