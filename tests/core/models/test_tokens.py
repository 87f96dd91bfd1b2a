"""Counting, cutting, batching and padding of tokens."""

from __future__ import annotations

import numpy as np
import pytest
from encoder_folders import TEXTS, tokeniser

from attn.core.errors import UsageError
from attn.core.models.tokens import batches, padded, tokenise


@pytest.mark.parametrize("limit", [1, 7, 300, 5000])
@pytest.mark.parametrize("count", [0, 1, 2, 40])
def test_batches_hold_every_row_once_within_the_limit(count: int, limit: int) -> None:
    counts = np.random.default_rng(count + limit).integers(1, 300, count)
    found = list(batches(counts, limit))
    assert sorted(np.concatenate(found).tolist() if found else []) == list(range(count))
    for rows in found:
        assert len(rows) == 1 or len(rows) * counts[rows].max() <= limit
    longest = [int(counts[rows].max()) for rows in found]
    assert longest == sorted(longest, reverse=True)


def test_cut_texts_end_as_whole_ones_do() -> None:
    tokens = tokenise(tokeniser(), TEXTS, 8)
    assert tokens.counts.tolist() == [8, 4, 2, 8, 3, 8]
    assert tokens.truncated.tolist() == [True, False, False, True, False, True]
    assert all(ids[0] == 2 and ids[-1] == 3 for ids in tokens.ids)


def test_exactly_full_is_not_cut() -> None:
    assert not tokenise(tokeniser(), [TEXTS[0]], 9).truncated.any()
    assert tokenise(tokeniser(), TEXTS, None).counts.max() == 26


def test_text_without_tokens_gets_one() -> None:
    tokens = tokenise(tokeniser(special=False), ["", "cat"], 8)
    assert tokens.ids[0] == [3]
    assert tokens.counts.tolist() == [1, 1]
    assert tokenise(tokeniser(), [], 8).ids == []


def test_padding() -> None:
    ids, mask = padded([[5, 6], [7]], 9)
    assert ids.tolist() == [[5, 6], [7, 9]]
    assert mask.tolist() == [[1, 1], [1, 0]]
    assert padded([[5]], 0, 3)[0].tolist() == [[5, 0, 0]]
    assert padded([[5]], 0, known=6)[0].tolist() == [[5]]
    with pytest.raises(UsageError, match="its tokeniser gives token 5, but it knows 5 tokens"):
        padded([[5]], 0, known=5)
