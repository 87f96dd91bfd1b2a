"""Captions as ids that end in mask, start and end: OpenAI's BPE for real models, whole words for small ones.

Specification: methods/ga-dms.md, section 3.1. In both, 0 is padding and the last three ids of the vocabulary are
``<|mask|>``, ``<|startoftext|>`` and ``<|endoftext|>``.
"""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...io.kinds import open_regular
from ...memory import read_within

SPECIAL = ("<|mask|>", "<|startoftext|>", "<|endoftext|>")
UNKNOWN = "<|unknown|>"


@dataclass(frozen=True, slots=True)
class CaptionTokens:
    """Captions as ids.

    Parameters
    ----------
    ids : ndarray [n, length], int64
        Start, words, end, padding; cut so that the end token is the last.
    lengths : ndarray [n], int64
        Tokens of the whole caption, start and end included.
    """

    ids: NDArray[np.int64]
    lengths: NDArray[np.int64]

    @property
    def truncated(self) -> NDArray[np.bool_]:
        out: NDArray[np.bool_] = self.lengths > self.ids.shape[1]
        return out


class Tokenizer(Protocol):
    """What the model needs of one."""

    @property
    def vocab_size(self) -> int: ...

    def pieces(self, caption: str) -> list[tuple[str, int]]:
        """Text and id of each token of a caption, without start and end."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """For the model file; ``from_dict`` reads it."""
        ...


def encode(tokenizer: Tokenizer, captions: Sequence[str], length: int) -> CaptionTokens:
    """Ids of captions at ``length`` positions (at least 2)."""
    start, end = tokenizer.vocab_size - 2, tokenizer.vocab_size - 1
    ids = np.zeros((len(captions), length), np.int64)
    lengths = np.zeros(len(captions), np.int64)
    for row, caption in zip(range(len(captions)), captions, strict=True):
        words = [token for _, token in tokenizer.pieces(caption)]
        lengths[row] = len(words) + 2
        words = [start, *words[: length - 2], end]
        ids[row, : len(words)] = words
    return CaptionTokens(ids, lengths)


@dataclass(frozen=True, slots=True)
class WordTokenizer:
    """Whole lower-case words, numbers and no punctuation.

    Parameters
    ----------
    words : tuple of str
        Word i has the id i + 2; id 1 stands for every other word.
    """

    words: tuple[str, ...]

    @classmethod
    def of(cls, captions: Iterable[str]) -> WordTokenizer:
        """All words of the captions, the most frequent first."""
        counts = Counter(word for caption in captions for word in split_words(caption))
        return cls(tuple(sorted(counts, key=lambda word: (-counts[word], word))))

    @property
    def vocab_size(self) -> int:
        return len(self.words) + 2 + len(SPECIAL)

    def pieces(self, caption: str) -> list[tuple[str, int]]:
        known = {word: i + 2 for i, word in enumerate(self.words)}
        return [(word, known.get(word, 1)) for word in split_words(caption)]

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "words", "words": list(self.words)}


def split_words(caption: str) -> list[str]:
    """Lower-case words of a caption: ``t-shirt`` is one word."""
    return re.findall(r"\w+(?:[-']\w+)*", caption.lower())


class BPETokenizer:
    """OpenAI's byte-pair encoding, its last merge given up for ``<|mask|>``.

    Parameters
    ----------
    vocabulary : mapping of str to int
        CLIP's 49408 tokens. The third last is the result of the last merge.
    merges : sequence of str
        "left right", as in merges.txt.
    """

    def __init__(self, vocabulary: Mapping[str, int], merges: Sequence[str]) -> None:
        from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
        from tokenizers.models import BPE

        names = sorted(vocabulary, key=lambda name: vocabulary[name])
        last = "".join(merges[-1].split())
        if names[-2:] != list(SPECIAL[1:]) or names[-3] not in (SPECIAL[0], last):
            raise ValueError("this is no vocabulary of CLIP: it does not end in its last merge, start and end of text")
        self._names = [*names[:-3], *SPECIAL]
        self._merges = [merge for merge in merges if "".join(merge.split()) != names[-3]]
        pairs = [(left, right) for left, right in (merge.split() for merge in self._merges)]
        vocab = {name: i for i, name in enumerate(self._names)}
        self._bpe = Tokenizer(BPE(vocab=vocab, merges=pairs, end_of_word_suffix="</w>", unk_token=SPECIAL[2]))
        self._bpe.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
        )
        words = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
        self._bpe.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(words), behavior="removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )

    @property
    def vocab_size(self) -> int:
        return len(self._names)

    def pieces(self, caption: str) -> list[tuple[str, int]]:
        clean = html.unescape(html.unescape(caption)).strip()
        encoding = self._bpe.encode(clean, add_special_tokens=False)
        return [(token.removesuffix("</w>"), i) for token, i in zip(encoding.tokens, encoding.ids, strict=True)]

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "bpe", "names": self._names, "merges": self._merges}


def from_dict(described: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that ``to_dict`` described. Raises ``ValueError`` for an unknown kind."""
    if described["kind"] == "words":
        if not all(isinstance(word, str) for word in described["words"]):
            raise ValueError("words that are no text")
        return WordTokenizer(tuple(described["words"]))
    if described["kind"] == "bpe":
        if not all(isinstance(name, str) for name in (*described["names"], *described["merges"])):
            raise ValueError("names or merges that are no text")
        return BPETokenizer({name: i for i, name in enumerate(described["names"])}, described["merges"])
    raise ValueError(f"no tokenizer of kind {described['kind']!r}")


def read_clip_tokenizer(folder: Path) -> BPETokenizer:
    """The tokenizer of a CLIP folder: vocab.json and merges.txt. Raises ``InputError`` where they are no CLIP's."""
    try:
        texts = []
        for name in ("vocab.json", "merges.txt"):
            if not (folder / name).exists():
                raise InputError(folder, f"has no {name}", "Name a folder of a CLIP model")
            with open_regular(folder / name) as file:
                texts.append(read_within(file, folder / name, what="holds").decode())
        vocabulary, lines = json.loads(texts[0]), texts[1].splitlines()
    except (ValueError, RecursionError) as error:
        raise InputError(folder / "vocab.json", "is not JSON") from error
    merges = [line for line in lines if line.strip() and not line.startswith("#version")]
    try:
        return BPETokenizer(vocabulary, merges)
    except (ValueError, IndexError, TypeError, AttributeError) as error:
        raise InputError(folder, str(error)) from error
