"""Needles: pass keys hidden at several depths of one text, each asked for from the same filled cache."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .language import Language

PLACES = (
    "London Cairo Lima Tokyo Oslo Rome Delhi Quito Seoul Paris Perth Accra Kyoto Milan Tunis Dakar Hanoi Sofia Minsk "
    "Turin"
).split()  # fmt: skip
"""Whose pass keys they are: no more needles than that."""
HIDDEN = "\nThe pass key of {place} is {key}. Remember it: {key} is the pass key of {place}.\n"
QUESTION = "\n\nQuestion: What is the pass key of {place}?\nAnswer: The pass key of {place} is"
DIGITS = 5


@dataclass(frozen=True, slots=True)
class Needle:
    """One pass key.

    Parameters
    ----------
    depth : float
        Per cent of the text in front of it.
    key : str
        Five digits.
    question : list of int
        Tokens that ask for it.
    """

    depth: float
    key: str
    question: list[int]

    def found(self, answer: str) -> bool:
        """Whether an answer begins with the pass key, white space aside, and with no longer number."""
        said = answer.lstrip()
        return said.startswith(self.key) and not said[len(self.key) :][:1].isdigit()


@dataclass(frozen=True, slots=True)
class Haystack:
    """A text with needles in it.

    Parameters
    ----------
    tokens : list of int
    needles : tuple of Needle
    answer : int
        Tokens that are written behind each question.
    """

    tokens: list[int]
    needles: tuple[Needle, ...]
    answer: int


def encoded(tokeniser: Any, text: str) -> list[int]:
    """Tokens of a piece of text, none added."""
    return list(tokeniser(text, add_special_tokens=False, verbose=False)["input_ids"])


def knows_digits(tokeniser: Any) -> bool:
    """Whether the tokeniser can write a pass key."""
    key = "1234567890"
    return key in "".join(tokeniser.decode(encoded(tokeniser, f" {key}")).split())


def haystack(tokeniser: Any, tokens: Sequence[int], length: int, depths: Sequence[float], seed: int) -> Haystack:
    """The beginning of a text with a pass key at each depth: with question and answer ``length`` tokens at most.

    Parameters
    ----------
    tokeniser
    tokens : sequence of int
        Of the text; at least ``length``.
    length : int
    depths : sequence of float
        Per cent, ascending; at most as many as ``PLACES``.
    seed : int
        Of the pass keys.

    Raises
    ------
    ValueError
        If the needles alone are longer.
    """
    drawn = random.Random(seed)
    keys = [str(key) for key in drawn.sample(range(10 ** (DIGITS - 1), 10**DIGITS), len(depths))]
    places = PLACES[: len(depths)]
    hidden = [encoded(tokeniser, HIDDEN.format(place=p, key=k)) for p, k in zip(places, keys, strict=True)]
    questions = [encoded(tokeniser, QUESTION.format(place=p)) for p in places]
    answer = max(len(encoded(tokeniser, f" {key}")) for key in keys) + 1  # one more shows whether the number goes on
    room = length - sum(map(len, hidden)) - max(map(len, questions)) - answer
    if room < 0:
        raise ValueError(f"{len(depths)} needles and a question are {length - room} tokens")
    mixed: list[int] = []
    reached = 0
    for depth, needle in zip(depths, hidden, strict=True):
        at = round(room * depth / 100)
        mixed += [*tokens[reached:at], *needle]
        reached = at
    mixed += tokens[reached:room]
    needles = tuple(Needle(*each) for each in zip(depths, keys, questions, strict=True))
    return Haystack(mixed, needles, answer)


def search(language: Language, stack: Haystack) -> list[bool]:
    """Which needles are found: one prefill, then each question behind the cache that it left."""
    run = language.prefill(stack.tokens)
    answers = [language.answer(run.cache, needle.question, stack.answer) for needle in stack.needles]
    texts = [language.tokeniser.decode(answer) for answer in answers]
    return [needle.found(text) for needle, text in zip(stack.needles, texts, strict=True)]
