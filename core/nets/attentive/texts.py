"""Texts as numbers: the words that a classifier knows, and the batches that it reads.

Specification: methods/attention-at.md, section 5: lower-cased words, those that are not in the vocabulary dropped,
texts left out by their number of words, batches of like length. Imports torch only where tensors are made.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from ...io.texts import LabelledText

if TYPE_CHECKING:
    from .network import TextBatch

Tokens = Literal["whitespace", "words"]
_WORDS = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")
BUCKET_NOISE = 0.2
"""How far a text's length is off, at most, when texts are put into batches of like length."""


def split_text(text: str, tokens: Tokens) -> list[str]:
    """Words of a text, lower-cased: between blanks, or with punctuation marks as words of their own."""
    return text.lower().split() if tokens == "whitespace" else _WORDS.findall(text.lower())


def count_words(texts: Iterable[LabelledText], tokens: Tokens) -> Counter[str]:
    """How often each word occurs in texts and their second texts."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(split_text(text.text, tokens))
        counts.update(split_text(text.query, tokens))
    return counts


def in_order(labels: Iterable[str]) -> tuple[str, ...]:
    """Labels each once: as numbers where all are, else by the alphabet."""
    names = set(labels)
    if all(re.fullmatch(r"-?\d{1,15}", name) for name in names):
        return tuple(sorted(names, key=int))
    return tuple(sorted(names))


@dataclass(frozen=True)
class KnownWords:
    """How texts become numbers, as a model file holds it.

    Parameters
    ----------
    words : tuple of str
        Number 1 and so on.
    labels : tuple of str
    tokens : {"whitespace", "words"}
    shortest, longest : int
        Words, those that are known, of texts that are read.
    pair : bool
    answers_in_text : bool
        Labels are words, and only those in the text can be its answer.
    """

    words: tuple[str, ...]
    labels: tuple[str, ...]
    tokens: Tokens
    shortest: int
    longest: int
    pair: bool = False
    answers_in_text: bool = False

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Word -> number."""
        return {word: number for number, word in enumerate(self.words, 1)}

    def known(self, text: str) -> list[int]:
        """Numbers of the words of a text that are known."""
        found = (self.numbers.get(word) for word in split_text(text, self.tokens))
        return [number for number in found if number is not None]

    def encode(self, texts: Sequence[LabelledText]) -> EncodedTexts:
        """Texts as numbers; what cannot be read, or is too short or too long, is left out and counted."""
        place = {label: number for number, label in enumerate(self.labels)}
        candidates = [self.numbers.get(label.lower(), 0) for label in self.labels]
        kept: list[tuple[LabelledText, NDArray[np.int64], NDArray[np.int64], int]] = []
        left: Counter[str] = Counter()
        for text in texts:
            ids, query = (np.array(self.known(words), np.int64) for words in (text.text, text.query))
            why = self._why_not(text, ids, query)
            if not why and text.label not in place:
                why = "label unknown to the model"
            if not why and self.answers_in_text and candidates[place[text.label]] not in ids:
                why = "answer not in the text"
            if why:
                left[why] += 1
            else:
                kept.append((text, ids, query, place[text.label]))
        return EncodedTexts(
            self, tuple(text for text, *_ in kept), tuple(ids for _, ids, *_ in kept),
            tuple(query for _, _, query, _ in kept), np.array([label for *_, label in kept], np.int64), dict(left),
        )  # fmt: skip

    def _why_not(self, text: LabelledText, ids: NDArray[np.int64], query: NDArray[np.int64]) -> str:
        if not text.text.strip():
            return "empty"
        if not len(ids):
            return "no known word"
        if len(ids) < self.shortest:
            return f"shorter than {self.shortest} words"
        if len(ids) > self.longest:
            return f"longer than {self.longest} words"
        return "no known word in the second text" if self.pair and not len(query) else ""


@dataclass(frozen=True)
class EncodedTexts:
    """Texts as numbers.

    Parameters
    ----------
    vocabulary : KnownWords
    texts : tuple of LabelledText, N
    ids, queries : tuple of ndarray of int64, N
        Known words of each text, and of its second text.
    labels : ndarray of int64 [N]
    left : dict of str to int
        Why texts were left out -> how many.
    """

    vocabulary: KnownWords
    texts: tuple[LabelledText, ...]
    ids: tuple[NDArray[np.int64], ...]
    queries: tuple[NDArray[np.int64], ...]
    labels: NDArray[np.int64]
    left: dict[str, int]

    def __len__(self) -> int:
        return len(self.texts)

    def some(self, rows: Sequence[int]) -> EncodedTexts:
        """Those of some rows."""
        return EncodedTexts(
            self.vocabulary, tuple(self.texts[row] for row in rows), tuple(self.ids[row] for row in rows),
            tuple(self.queries[row] for row in rows), self.labels[list(rows)], {},
        )  # fmt: skip

    def words(self, row: int) -> list[str]:
        """The words of a text as they are read."""
        return [self.vocabulary.words[number - 1] for number in self.ids[row]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.array([len(ids) for ids in self.ids], np.int64)

    def batch(self, rows: Sequence[int]) -> TextBatch:
        """Some texts as tensors."""
        import torch

        from .network import TextBatch

        def padded(texts: Sequence[NDArray[np.int64]]) -> tuple[torch.Tensor, torch.Tensor]:
            lengths = [len(text) for text in texts]
            out = np.zeros((len(texts), max(lengths)), np.int64)
            for line, text in zip(out, texts, strict=True):
                line[: len(text)] = text
            return torch.from_numpy(out), torch.tensor(lengths)

        ids, lengths = padded([self.ids[row] for row in rows])
        labels = torch.from_numpy(self.labels[list(rows)])
        query, query_lengths, allowed = None, None, None
        if self.vocabulary.pair:
            query, query_lengths = padded([self.queries[row] for row in rows])
        if self.vocabulary.answers_in_text:
            numbers = self.vocabulary.numbers
            answers = torch.tensor([numbers.get(label.lower(), -1) for label in self.vocabulary.labels])
            allowed = (ids[:, :, None] == answers).any(1)
        return TextBatch(ids, lengths, labels, query, query_lengths, allowed)

    def batches(self, size: int) -> list[tuple[NDArray[np.int64], TextBatch]]:
        """All texts in batches of like length, with their rows."""
        order = np.argsort(self.lengths, kind="stable")
        return [(rows, self.batch(rows.tolist())) for rows in np.split(order, range(size, len(order), size))]


def bucketed(lengths: NDArray[np.int64], batch: int, seed: tuple[int, ...]) -> list[NDArray[np.int64]]:
    """Rows of the batches of an epoch: texts of like length together, the batches in any order."""
    rng = np.random.default_rng(seed)
    order = np.argsort(lengths * (1 + rng.uniform(-BUCKET_NOISE, BUCKET_NOISE, len(lengths))), kind="stable")
    batches = np.split(order, range(batch, len(order), batch))
    return [batches[number] for number in rng.permutation(len(batches))]
