"""Texts as tokens: byte pairs that are learnt of the training documents, so that every text can be written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

BYTES = 256


@dataclass(frozen=True)
class BytePairs:
    """Bytes and pairs of them (BPE; arXiv 1508.07909), by the library tokenizers; no text can be written as ``end``.

    Parameters
    ----------
    file : str
        The content of a tokenizer.json.
    """

    file: str
    core: Tokenizer = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "core", Tokenizer.from_str(self.file))

    @classmethod
    def learn(cls, texts: Iterable[str], vocabulary: int) -> BytePairs:
        """At most ``vocabulary`` tokens, ``end`` among them: single bytes, and the most frequent pairs of ``texts``."""
        core = Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
        core.decoder = decoders.ByteLevel()  # type: ignore[assignment]
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary - 1, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
        )
        core.train_from_iterator(texts, trainer)
        return cls(core.to_str())

    @property
    def end(self) -> int:
        """The token before and after every document."""
        return self.core.get_vocab_size()

    @property
    def vocabulary(self) -> int:
        """Tokens there are."""
        return self.end + 1

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.file.encode()).hexdigest()

    def sizes(self) -> Tensor:
        """Bytes of each token, int64 [vocabulary]; of ``end`` none."""
        words = self.core.get_vocab()
        found = torch.zeros(self.vocabulary, dtype=torch.int64)
        found[list(words.values())] = torch.tensor([len(word) for word in words])  # a character stands for a byte
        return found

    def encode(self, text: str) -> list[int]:
        """The tokens of a text."""
        return list(self.core.encode(text).ids)

    def stream(self, texts: Iterable[str]) -> Tensor:
        """Texts one behind the other, ``end`` before the first and after each: int64 [N]."""
        tokens = [self.end]
        for text in texts:
            tokens += [*self.encode(text), self.end]
        return torch.tensor(tokens)

    def decode(self, tokens: Sequence[int]) -> str:
        """A text of tokens; bytes that are no UTF-8 become U+FFFD, ``end`` is left out."""
        return str(self.core.decode([token for token in tokens if token != self.end]))
