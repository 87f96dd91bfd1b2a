"""Key-value lookup: sequences of fillers in which keys are given values, and asked for later.

A definition is two tokens, a key and its value; a question is two tokens, "ask" and a key that was defined before, at
which the key's value is to be named. Every earlier definition is as likely to be asked for, however far it is back. A
key has one value in a sequence and another in the next; an answer is not written into the sequence, so that none can be
copied from an earlier question. After the associative recall of arXiv 2312.04927 (Zoology), among fillers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .options import KEYS

VALUES, FILLERS = 64, 32
ASK = 0
VOCABULARY = 1 + KEYS + VALUES + FILLERS
"""Tokens: ask, keys, values, fillers."""
_SALT = 99001
"""First number of the seeds of training."""
DEVELOPMENT, TEST = (99002,), (99003,)
"""First numbers of the seeds of what is judged while a model learns, and in the end."""


@dataclass(frozen=True, slots=True)
class Lookups:
    """B sequences of L tokens with n questions each.

    Parameters
    ----------
    tokens : Tensor of int64 [B, L]
    asked : Tensor of int64 [B, n]
        Positions at which values are to be named.
    answer : Tensor of int64 [B, n]
        Those values, from 0.
    place : Tensor of int64 [B, n]
        Positions at which those values stand.
    """

    tokens: Tensor
    asked: Tensor
    answer: Tensor
    place: Tensor

    def to(self, device: torch.device) -> Lookups:
        """The same on a device."""
        return Lookups(*(x.to(device) for x in (self.tokens, self.asked, self.answer, self.place)))


def draw_lookups(seed: tuple[int, ...], batch: int, length: int, every: int) -> Lookups:
    """``length // every`` definitions and as many questions at random places of each sequence.

    Parameters
    ----------
    seed : tuple of int
    batch, length : int
        ``length`` is even.
    every : int
        Tokens for each definition, at least 4.
    """
    rng = np.random.default_rng(seed)
    slots, count = length // 2, length // every

    def order(size: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
        return rng.random((batch, size)).argsort(1)

    front = 2 * np.sort(order(slots)[:, : 2 * count], 1)  # of definitions and questions, in their order
    defines = np.concatenate([np.ones((batch, 1), bool), order(2 * count - 1) < count - 1], 1)  # the first defines
    defined = defines.cumsum(1)
    which = np.where(defines, defined - 1, (rng.random(defines.shape) * defined).astype(np.int64))
    key = np.take_along_axis(order(KEYS)[:, :count], which, 1)
    value = np.take_along_axis(rng.integers(VALUES, size=(batch, count)), which, 1)
    tokens = 1 + KEYS + VALUES + rng.integers(FILLERS, size=(batch, length))
    np.put_along_axis(tokens, front, np.where(defines, 1 + key, ASK), 1)
    np.put_along_axis(tokens, front + 1, np.where(defines, 1 + KEYS + value, 1 + key), 1)
    places = (front[defines] + 1).reshape(batch, count)
    asks = ~defines
    parts = (
        tokens, (front[asks] + 1).reshape(batch, count), value[asks].reshape(batch, count),
        np.take_along_axis(places, which[asks].reshape(batch, count), 1),
    )  # fmt: skip
    return Lookups(*(torch.from_numpy(part.astype(np.int64)) for part in parts))


def training_lookups(seed: int, step: int, batch: int, length: int, every: int) -> Lookups:
    """The batch of a step: the same whenever it is drawn, and for every attention."""
    return draw_lookups((_SALT, seed, step), batch, length, every)
