"""Captions: the official cleaning (methods/priorclip.md, section 5) and a vocabulary of whole words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

MAX_WORDS = 30
PAD, UNKNOWN, START, END = range(4)
"""Ids below those of the words."""
_DROPPED = re.compile(r"""[,.'!?"()*#:;~]""")


def caption_words(caption: str) -> list[str]:
    """Lower-case words without punctuation; "-" and "/" part words. Perhaps none."""
    return re.sub(r"[-/]", " ", _DROPPED.sub("", caption.lower())).split()


def clean_caption(caption: str, max_words: int = MAX_WORDS) -> str:
    """The caption as the official code reads it. Raises ``ValueError`` where no word is left."""
    words = caption_words(caption)[:max_words]
    if not words:
        raise ValueError(f"caption {caption!r} has no words")
    return " ".join(words)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Words and their ids.

    Parameters
    ----------
    words : tuple of str
        Word i has the id i + 4; before them come padding, unknown, start and end.
    """

    words: tuple[str, ...]
    ids: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", {word: i + END + 1 for i, word in enumerate(self.words)})

    @classmethod
    def of(cls, captions: Iterable[str], *, least: int = 1) -> Vocabulary:
        """All words that occur ``least`` times, the most frequent first."""
        counts = Counter(word for caption in captions for word in caption_words(caption))
        kept = sorted((word for word, n in counts.items() if n >= least), key=lambda word: (-counts[word], word))
        return cls(tuple(kept))

    def __len__(self) -> int:
        return END + 1 + len(self.words)

    def encode(
        self, captions: Sequence[str], max_words: int = MAX_WORDS
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
        """Captions as ids.

        Returns
        -------
        ids [n, L] int64 (start, words, end, padding; L that of the longest), whether words were cut [n] bool, and
        tokens of each [n] int64. A text without words is start and end alone.
        """
        words = [caption_words(caption) for caption in captions]
        rows = [[START, *(self.ids.get(w, UNKNOWN) for w in row[:max_words]), END] for row in words]
        lengths = np.array([len(row) for row in rows], np.int64)
        ids = np.full((len(rows), int(lengths.max(initial=2))), PAD, np.int64)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
        return ids, np.array([len(row) > max_words for row in words], np.bool_), lengths
