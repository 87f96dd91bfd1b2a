"""The pass key test: is a sentence still found as the text around it grows longer?

Specification: methods/tempscale.md, section 3.8 (no paper; a test of our own, after LongEmbed's). Every document is
filler of a given length in tokens with one sentence ``The pass key of <name> is <five digits>.`` at a random place;
the question is ``What is the pass key of <name>?``. Found is what ranks first: among the documents of its own length,
and among those of all lengths, where one can see whether shorter texts win over the right long one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import UsageError
from ...retrieve.collapse import Row
from ...retrieve.encoders.text import TextEncoder

NAMES = (
    "Ada", "Bruno", "Clara", "Dario", "Elena", "Felix", "Greta", "Hugo", "Irene", "Jonas", "Karla", "Leon", "Marta",
    "Nils", "Olga", "Paul", "Quentin", "Rosa", "Simon", "Tessa", "Ursula", "Victor", "Wanda", "Xavier", "Yvonne",
    "Zeno", "Alma", "Boris", "Celia", "David", "Esther", "Frank", "Gloria", "Henry", "Ida", "Jasper", "Kira", "Lucas",
    "Mona", "Noah", "Otto", "Petra", "Ralph", "Sylvia", "Tobias", "Vera", "Walter", "Yara", "Zoe", "Anton",
)  # fmt: skip
"""Fifty, so that no two documents of a round have one."""
SENTENCE = "The pass key of {name} is {key}."
QUESTION = "What is the pass key of {name}?"
EACH = 8
"""Documents of every length in a round."""
SHORTEST = 24
"""Tokens that a document must have for the sentence and some filler."""


@dataclass(frozen=True, slots=True)
class Hidden:
    """A document with a pass key in it.

    Parameters
    ----------
    name : str
        Whose key it is.
    text : str
    length : int
        Tokens that were asked for.
    """

    name: str
    text: str
    length: int


def sentences_of(texts: Sequence[str]) -> list[str]:
    """Filler: the sentences of the texts, in their order, without those that are empty or speak of a pass key."""
    found = [part.strip() for text in texts for part in re.split(r"(?<=[.!?])\s+|\n+", text)]
    return [part for part in found if part and "pass key" not in part.lower()]


def documents(
    encoder: TextEncoder, filler: Sequence[str], lengths: Sequence[int], each: int, rng: np.random.Generator
) -> list[Hidden]:
    """``each`` documents of every length, all about different names.

    Parameters
    ----------
    encoder : TextEncoder
        Whose tokens are counted, with those that open and close a text.
    filler : sequence of str
        Sentences.
    lengths : sequence of int
        In tokens; a document has as many as whole words allow, never more.
    each : int
        ``each * len(lengths)`` names are needed.
    rng : Generator
        Chooses names, keys, filler and places.

    Raises
    ------
    UsageError
        If there are too few names, a length is too small, or the filler is too short.
    """
    if each * len(lengths) > len(NAMES):
        raise UsageError(f"{each} documents of {len(lengths)} lengths need more than {len(NAMES)} names.")
    if short := [length for length in lengths if length < SHORTEST]:
        raise UsageError(f"a document of {short[0]} tokens has no room for a pass key; {SHORTEST} is the least.")
    names = [NAMES[i] for i in rng.permutation(len(NAMES))[: each * len(lengths)]]
    of_each = [length for length in lengths for _ in range(each)]
    sentences = [SENTENCE.format(name=name, key=rng.integers(10_000, 100_000)) for name in names]
    return [
        Hidden(name, hide(encoder, filler, sentence, length, rng), length)
        for name, sentence, length in zip(names, sentences, of_each, strict=True)
    ]


def hide(encoder: TextEncoder, filler: Sequence[str], sentence: str, tokens: int, rng: np.random.Generator) -> str:
    """One document: filler of so many tokens with the sentence between two of its sentences."""
    whole = encoder.cut(10**9)  # what is counted must not be cut at the model's limit
    start = int(rng.integers(len(filler)))
    around = [*filler[start:], *filler[:start]]

    def document(words: int, place: float) -> str:
        parts: list[str] = []
        for part in around:
            parts.append(" ".join(part.split()[:words]))
            words -= len(part.split())
            if words <= 0:
                break
        at = int(place * (len(parts) + 1))
        return " ".join([*parts[:at], sentence, *parts[at:]])

    place = float(rng.random())
    low, high = 0, tokens  # a word has a token or more
    if int(whole.tokens([document(high, place)]).counts[0]) < tokens:
        raise UsageError(f"the texts are too short for filler of {tokens} tokens. Give more or longer texts.")
    while high - low > 1:  # tokens grow with the words
        middle = (low + high) // 2
        fits = int(whole.tokens([document(middle, place)]).counts[0]) <= tokens
        low, high = (middle, high) if fits else (low, middle)
    return document(low, place)


def passkey(
    encoder: TextEncoder, texts: Sequence[str], lengths: Sequence[int], *, each: int = EACH, rounds: int = 5,
    seed: int = 0,
) -> list[Row]:  # fmt: skip
    """How often the right document is first, by its length.

    Parameters
    ----------
    encoder : TextEncoder
        At its temperature.
    texts : sequence of str
        What the filler is taken from.
    lengths : sequence of int
        Of the documents, in tokens.
    each : int
        Documents of every length in a round.
    rounds : int
        Rounds, each with names, keys, filler and places of its own.
    seed : int

    Returns
    -------
    list of Row
        A row a length: ``tokens``, ``questions``, ``found`` (share first among those of its length), ``chance``,
        ``found_among_all``, ``chance_among_all``, ``shorter_won``, ``longer_won`` (wrong winners among all, shares).

    Raises
    ------
    UsageError
        See ``documents``.
    """
    filler = sentences_of(texts)
    if not filler:
        raise UsageError("the texts hold no sentence that could be filler of the pass key test.")
    rng = np.random.default_rng(seed)
    won: dict[int, list[tuple[bool, bool, int]]] = {length: [] for length in lengths}
    for _ in range(rounds):
        hidden = documents(encoder, filler, lengths, each, rng)
        answers = encoder.encode_texts([document.text for document in hidden]).vectors
        asked = encoder.encode_texts([QUESTION.format(name=document.name) for document in hidden], side="query").vectors
        scores, length = asked @ answers.T, np.array([document.length for document in hidden])
        for row, document in enumerate(hidden):
            own = np.where(length == document.length, scores[row], -np.inf)
            first = int(scores[row].argmax())
            longer = int(np.sign(length[first] - document.length)) if first != row else 0
            won[document.length].append((int(own.argmax()) == row, first == row, longer))
    total = each * len(lengths)
    return [
        {
            "tokens": length, "questions": len(rows), "found": float(np.mean([own for own, _, _ in rows])),
            "chance": 1 / each, "found_among_all": float(np.mean([all_ for _, all_, _ in rows])),
            "chance_among_all": 1 / total, "shorter_won": float(np.mean([sign < 0 for _, _, sign in rows])),
            "longer_won": float(np.mean([sign > 0 for _, _, sign in rows])),
        }
        for length, rows in won.items()
    ]  # fmt: skip
