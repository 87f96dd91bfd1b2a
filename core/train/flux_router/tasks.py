"""Two families of prompts with different needs: a lookup far back, and a continuation of what was just read.

Needle: pairs of a key and a value, fillers, then questions, each answered by one word. Continuation: a few words over
and over, the next one is to be named; it always stands near. Specification: methods/flux-attention.md, section 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ...models.language import BOS, SPECIAL

Kind = Literal["needle", "continuation"]
KINDS: tuple[Kind, ...] = ("needle", "continuation")
"""A kind's number is that of its task in the penalty."""
KEYS, VALUES, FILLERS, ASK = 32, 16, 8, "ask"
WORDS = (
    *SPECIAL, ASK, *(f"k{n}" for n in range(KEYS)), *(f"v{n}" for n in range(VALUES)),
    *(f"f{n}" for n in range(FILLERS)),
)  # fmt: skip
"""The vocabulary: a word's number is its token."""
NUMBER = {word: number for number, word in enumerate(WORDS)}
PERIOD = 6
"""Most words that a continuation repeats."""


@dataclass(frozen=True, slots=True)
class DrawnPrompts:
    """B sequences of L tokens of one kind.

    Parameters
    ----------
    tokens : Tensor of int64 [B, L]
    answer : Tensor of bool [B, L]
        Tokens that are to be named.
    kind : str
    """

    tokens: Tensor
    answer: Tensor
    kind: Kind


def draw_prompts(
    seed: tuple[int, ...], kind: Kind, batch: int, *, pairs: int, gap: int, questions: int
) -> DrawnPrompts:  # fmt: skip
    """DrawnPrompts of ``1 + 2 pairs + gap + 3 questions`` tokens; more questions than pairs: some are asked again.

    Parameters
    ----------
    seed : tuple of int
    kind : {"needle", "continuation"}
    batch : int
    pairs, gap, questions : int
        Of a needle; a continuation is as long, and as many of its last words are to be named as there are questions.
    """
    rng = np.random.default_rng((*seed, KINDS.index(kind)))
    length = 1 + 2 * pairs + gap + 3 * questions
    tokens, answer = np.zeros((batch, length), np.int64), np.zeros((batch, length), bool)
    for row in range(batch):
        if kind == "needle":
            keys, values = NUMBER["k0"] + rng.permutation(KEYS)[:pairs], NUMBER["v0"] + rng.integers(VALUES, size=pairs)
            again = [rng.permutation(pairs) for _ in range(-(-questions // pairs))]
            asked = np.concatenate(again)[:questions]
            fillers = NUMBER["f0"] + rng.integers(FILLERS, size=gap)
            dialogue = np.stack([np.full(questions, NUMBER[ASK]), keys[asked], values[asked]], 1).ravel()
            words = np.concatenate([np.stack([keys, values], 1).ravel(), fillers, dialogue])
            answer[row, length - 3 * questions + 2 :: 3] = True
        else:
            period = int(rng.integers(2, PERIOD + 1))
            words = np.resize(NUMBER["k0"] + rng.permutation(KEYS + VALUES)[:period], length - 1)
            answer[row, -questions:] = True
        tokens[row] = np.concatenate([[NUMBER[BOS]], words])
    return DrawnPrompts(torch.from_numpy(tokens), torch.from_numpy(answer), kind)
