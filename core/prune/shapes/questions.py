"""Questions about scenes, with their answers and the objects that are the evidence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .scenes import BOX, OBJECTS, SIDE, Ints, Scenes
from .words import CELLS, COLOURS, NUMBER, PLURALS, QUESTIONS, SHAPES, numbers

Bools = NDArray[np.bool_]
_CELL = SIDE // 3
_CLEAR = 2
"""Pixels between an object's middle and the border of its cell, or the answer would be a matter of taste."""
_MARGIN = 3
"""The same of the diagonals that bound what is left of something."""


@dataclass(frozen=True, slots=True)
class Questions:
    """A question for each of B scenes.

    Parameters
    ----------
    tokens : ndarray of int [B, L]
    answer : ndarray of int [B]
        Number of the answer in ``words.ANSWERS``.
    evidence : ndarray of bool [B, 7]
        Slots of the scene that the answer depends on; none for a "no", and for a count of 0.
    valid : ndarray of bool [B]
        Whether the scene allows such a question.
    """

    tokens: Ints
    answer: Ints
    evidence: Bools
    valid: Bools


def ask(rng: np.random.Generator, scenes: Scenes, form: str) -> Questions:
    """One question of a form of ``words.QUESTIONS`` for each scene, at random among those that it allows."""
    return _ASK[form](rng, scenes)


def _filled(form: str, *values: Ints) -> Ints:
    """The tokens of a form, its gaps filled, [B, L]."""
    words = QUESTIONS[form]
    tokens = np.tile(np.array([0 if word is None else NUMBER[word] for word in words]), (len(values[0]), 1))
    for place, value in zip([i for i, word in enumerate(words) if word is None], values, strict=True):
        tokens[:, place] = value
    return tokens


def _pick(rng: np.random.Generator, valid: Bools) -> tuple[Ints, Bools]:
    """A valid column of each row at random, and whether there is one."""
    column = (rng.random(valid.shape) * valid).argmax(1)
    return column, valid[np.arange(len(valid)), column]


def _slots(*chosen: Ints) -> Bools:
    """Slots as a mask, [B, 7]; -1 is none."""
    out: Bools = (np.arange(OBJECTS + 1) == np.stack(chosen, 1)[:, :, None]).any(1)
    return out


_SHAPE, _PLURAL, _COLOUR = (np.array(numbers(words)) for words in (SHAPES, PLURALS, COLOURS))


def _objects(scenes: Scenes) -> tuple[Bools, Ints, Ints]:
    """Of the objects: present [B, 6], how many of each shape [B, 6], and their (shape, colour) as one number or -1."""
    present = scenes.present[:, :OBJECTS]
    counts = np.stack([(present & (scenes.shape == shape)).sum(1) for shape in range(len(SHAPES))], 1)
    return present, counts, np.where(present, scenes.shape * len(COLOURS) + scenes.colour, -1)


def _unique(present: Bools, pair: Ints) -> Bools:
    """Objects that shape and colour tell apart from all others of the scene."""
    out: Bools = present & ((pair[:, :, None] == pair[:, None]).sum(2) == 1)
    return out


def _colour(rng: np.random.Generator, scenes: Scenes) -> Questions:
    present, counts, _ = _objects(scenes)
    scene = np.arange(len(scenes))
    slot, valid = _pick(rng, present & (counts[scene[:, None], scenes.shape] == 1))
    tokens = _filled("colour", _SHAPE[scenes.shape[scene, slot]])
    return Questions(tokens, scenes.colour[scene, slot], _slots(slot), valid)


def _exists(rng: np.random.Generator, scenes: Scenes) -> Questions:
    """Half of the answers are no; absent pairs whose shape or colour is there are asked for more often."""
    present, _, pair = _objects(scenes)
    scene = np.arange(len(scenes))
    yes = rng.random(len(scenes)) < 0.5
    slot, valid = _pick(rng, present)
    there = presence(scenes).reshape(-1, len(SHAPES), len(COLOURS))
    near = 0.25 + there.any(2, keepdims=True) + there.any(1, keepdims=True)
    drawn = rng.random((len(scenes), len(SHAPES) * len(COLOURS))) ** (1 / near.reshape(len(scenes), -1))
    absent = (drawn * (1 - there.reshape(len(scenes), -1))).argmax(1)
    asked = np.where(yes, pair[scene, slot], absent)
    tokens = _filled("exists", _COLOUR[asked % len(COLOURS)], _SHAPE[asked // len(COLOURS)])
    return Questions(tokens, np.where(yes, 0, 1), _slots(np.where(yes, slot, -1)), valid)


def _count(rng: np.random.Generator, scenes: Scenes) -> Questions:
    present, counts, _ = _objects(scenes)
    wanted = rng.integers(0, 5, len(scenes))
    shape, valid = _pick(rng, counts == wanted[:, None])
    counted = np.minimum(counts[np.arange(len(scenes)), shape], 4)
    evidence = np.pad(present & (scenes.shape == shape[:, None]), ((0, 0), (0, 1)))
    return Questions(_filled("count", _PLURAL[shape]), counted, evidence, valid)


def _where(rng: np.random.Generator, scenes: Scenes) -> Questions:
    present, _, pair = _objects(scenes)
    scene, centre = np.arange(len(scenes)), scenes.centres()[:, :OBJECTS]
    clear = (np.abs(centre[..., None] - np.array([_CELL, 2 * _CELL])) >= _CLEAR).all((2, 3))
    slot, valid = _pick(rng, _unique(present, pair) & clear)
    column, row = np.minimum(centre[scene, slot] // _CELL, 2).astype(np.int64).T
    tokens = _filled("where", _COLOUR[scenes.colour[scene, slot]], _SHAPE[scenes.shape[scene, slot]])
    assert len(CELLS) == 9
    return Questions(tokens, row * 3 + column, _slots(slot), valid)


def _relation(form: str, axis: int, words: tuple[str, str], rng: np.random.Generator, scenes: Scenes) -> Questions:
    """What is in the cone to one side of an object: exactly one thing, and nothing near the cone's edge."""
    present, _, pair = _objects(scenes)
    scene, centre = np.arange(len(scenes)), scenes.centres()[:, :OBJECTS]
    apart = centre[:, None] - centre[:, :, None]  # [B, anchor, other, xy]
    sign = np.where(rng.random(len(scenes)) < 0.5, -1, 1)
    ahead, beside = apart[..., axis] * sign[:, None, None], np.abs(apart[..., 1 - axis])
    both = present[:, :, None] & present[:, None] & ~np.eye(OBJECTS, dtype=bool)
    cone = both & (ahead > beside)
    unclear = both & (ahead > 0) & (np.abs(ahead - beside) < _MARGIN)
    anchor, valid = _pick(rng, _unique(present, pair) & (cone.sum(2) == 1) & ~unclear.any(2))
    other = cone[scene, anchor].argmax(1)
    side = np.array(numbers(words))[(sign > 0).astype(int)]
    tokens = _filled(form, side, _COLOUR[scenes.colour[scene, anchor]], _SHAPE[scenes.shape[scene, anchor]])
    return Questions(tokens, scenes.shape[scene, other], _slots(other, anchor), valid)


def _beside(rng: np.random.Generator, scenes: Scenes) -> Questions:
    return _relation("beside", 0, ("left", "right"), rng, scenes)


def _over(rng: np.random.Generator, scenes: Scenes) -> Questions:
    return _relation("over", 1, ("above", "below"), rng, scenes)


def _digit(rng: np.random.Generator, scenes: Scenes) -> Questions:
    valid = scenes.digit >= 0
    tokens = np.tile(np.array([NUMBER[str(word)] for word in QUESTIONS["digit"]]), (len(scenes), 1))
    return Questions(tokens, np.maximum(scenes.digit, 0), _slots(np.where(valid, BOX, -1)), valid)


_ASK: Mapping[str, Callable[[np.random.Generator, Scenes], Questions]] = {
    "colour": _colour, "exists": _exists, "count": _count, "where": _where, "beside": _beside, "over": _over,
    "digit": _digit,
}  # fmt: skip


def presence(scenes: Scenes) -> NDArray[np.float32]:
    """Which pairs of shape and colour are in each scene, [B, 48]."""
    pairs = len(SHAPES) * len(COLOURS)
    _, _, pair = _objects(scenes)
    out = np.zeros((len(scenes), pairs + 1), np.float32)
    np.put_along_axis(out, np.where(pair < 0, pairs, pair), 1.0, 1)
    return out[:, :pairs]
