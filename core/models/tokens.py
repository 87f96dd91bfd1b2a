"""Texts to batches of token ids: counted, cut where the model ends, sorted by length so that little is padded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..options import OptionError

BATCH_TOKENS = 8192
"""Tokens of a batch, padding included (methods/retrieval-peers.md, section 5)."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokenised texts.

    Parameters
    ----------
    ids : list of list of int
        Special tokens included, cut to the maximum; at least one each.
    counts : ndarray, shape (n,), int64
        Their lengths.
    truncated : ndarray, shape (n,), bool
    """

    ids: list[list[int]]
    counts: NDArray[np.int64]
    truncated: NDArray[np.bool_]


def tokenise(tokeniser: Any, texts: Sequence[str], max_tokens: int | None) -> Tokens:
    """Token ids of ``texts`` by a tokeniser of transformers.

    A text without any token (some tokenisers add no special ones) becomes the end or padding token alone.
    """
    texts = list(texts)
    ids: list[list[int]] = tokeniser(texts, verbose=False)["input_ids"] if texts else []
    truncated = np.array([max_tokens is not None and len(tokens) > max_tokens for tokens in ids], bool)
    if truncated.any():  # once more, so that the tokeniser itself decides what closes a text that was cut
        long = np.flatnonzero(truncated)
        cut = tokeniser([texts[i] for i in long], truncation=True, max_length=max_tokens)["input_ids"]
        for i, tokens in zip(long.tolist(), cut, strict=True):
            ids[i] = tokens
    for i, tokens in enumerate(ids):
        if not tokens:
            special = (tokeniser.eos_token_id, tokeniser.bos_token_id, tokeniser.pad_token_id, 0)
            ids[i] = [next(token for token in special if token is not None)]
    return Tokens(ids, np.array([len(tokens) for tokens in ids], np.int64), truncated)


def batches(counts: NDArray[np.int64], limit: int = BATCH_TOKENS) -> Iterator[NDArray[np.int64]]:
    """Rows of batches of at most ``limit`` tokens each with padding, longest texts first; a longer text goes alone."""
    order = np.argsort(-counts, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, limit // max(1, int(counts[order[start]])))
        yield order[start : start + size]
        start += size


def padded(
    ids: Sequence[Sequence[int]], pad: int, length: int | None = None, *, known: int | None = None
) -> tuple[Tensor, Tensor]:
    """Token ids and mask (1 = real), [B, L] int64; L is the longest of ``ids``, or ``length``.

    Raises
    ------
    OptionError
        If an id is none of the ``known`` first ones: tokeniser and model are not of one piece.
    """
    length = length or max(map(len, ids))
    batch = np.full((len(ids), length), pad, np.int64)
    mask = np.zeros((len(ids), length), np.int64)
    for row, tokens in enumerate(ids):
        batch[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
    if known is not None and batch.size and batch.max() >= known:
        raise OptionError(
            f"{{model}}: its tokeniser gives token {batch.max()}, but it knows {known} tokens. Copy its folder again."
        )
    return torch.from_numpy(batch), torch.from_numpy(mask)


def vocabulary(model: Any) -> int:
    """How many tokens a model of transformers knows."""
    size: int = model.config.get_text_config().vocab_size
    return size
