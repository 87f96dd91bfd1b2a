"""Drawn tasks for long contexts, as conversations: look up a key's value, or name the words that are most common.

Lookup: pairs of a key and a value, some of which are followed by a filler, then questions one after the other, each
answered by one word. Common words: many words, a few of which come often; the question is which, and the answer names
them in the order of the vocabulary. After RULER's and BABILong's tasks (methods/focusft.md, section 5).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ...models.language import BOS, SPECIAL
from .options import COMMON, KEYS, DrawnTask
from .step import Dialogues

VALUES, FILLERS = 32, 15
ASK, MOST = "ask", "most"
WORDS = (
    *SPECIAL, ASK, MOST, *(f"k{n}" for n in range(KEYS)), *(f"v{n}" for n in range(VALUES)),
    *(f"f{n}" for n in range(FILLERS)),
)  # fmt: skip
"""The vocabulary: a word's number is its token."""
NUMBER = {word: number for number, word in enumerate(WORDS)}
FIRST_KEY, FIRST_VALUE, FIRST_FILLER = NUMBER["k0"], NUMBER["v0"], NUMBER["f0"]


@dataclass(frozen=True, slots=True)
class TaskSize:
    """How long the contexts of a task are.

    Parameters
    ----------
    task : {"lookup", "common-words"}
    least, most : int
        Pairs of a context; of common words, half of its words.
    questions : int
        Of a lookup; more than there are pairs: some are asked again.
    """

    task: DrawnTask
    least: int
    most: int
    questions: int


def draw(seed: tuple[int, ...], batch: int, size: TaskSize) -> Dialogues:
    """A batch, the same for the same seed; every sequence of its own length, padded on the right."""
    rng = np.random.default_rng(seed)
    make = _lookup if size.task == "lookup" else _common
    rows = []
    for _ in range(batch):
        rows.append(make(rng, int(rng.integers(size.least, size.most + 1)), size.questions))
    length = max(len(tokens) for tokens, _ in rows)
    tokens = np.zeros((batch, length), np.int64)
    answer, real = np.zeros((batch, length), bool), np.zeros((batch, length), bool)
    for number, (words, learn) in enumerate(rows):
        tokens[number, : len(words)], answer[number, : len(words)], real[number, : len(words)] = words, learn, True
    return Dialogues(torch.from_numpy(tokens), torch.from_numpy(answer), torch.from_numpy(real))


def _lookup(rng: np.random.Generator, pairs: int, questions: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """<bos> k v k v f k v ... ask k v ask k v ..."""
    keys = FIRST_KEY + rng.permutation(KEYS)[:pairs]
    values = FIRST_VALUE + rng.integers(VALUES, size=pairs)
    filler = FIRST_FILLER + rng.integers(FILLERS, size=pairs)
    follows = rng.random(pairs) < 0.25
    context = np.stack([keys, values, np.where(follows, filler, -1)], 1).ravel()
    asked = rng.permutation(pairs)[:questions] if questions <= pairs else rng.integers(pairs, size=questions)
    dialogue = np.stack([np.full(len(asked), NUMBER[ASK]), keys[asked], values[asked]], 1).ravel()
    tokens = np.concatenate([[NUMBER[BOS]], context[context >= 0], dialogue])
    answer = np.zeros(len(tokens), bool)
    answer[len(tokens) - len(dialogue) + 2 :: 3] = True
    return tokens, answer


def _common(rng: np.random.Generator, size: int, questions: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """<bos> words ... most w w w: three words come at least twice as often as any other."""
    chosen = FIRST_KEY + rng.permutation(KEYS)
    common, often = np.sort(chosen[:COMMON]), max(min(4, size // 2), size // 8)
    rare = np.resize(chosen[COMMON:], 2 * size - COMMON * often)
    words = rng.permutation(np.concatenate([np.repeat(common, often), rare]))
    tokens = np.concatenate([[NUMBER[BOS]], words, [NUMBER[MOST]], common])
    answer = np.zeros(len(tokens), bool)
    answer[-COMMON:] = True
    return tokens, answer
