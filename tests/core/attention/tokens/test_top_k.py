"""Exact top k with ties by position."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attn.core.attention.indexer.products_cpu import KeyBlocks
from attn.core.attention.indexer.search_cpu import BestTokens
from attn.core.attention.tokens.top_k import top_k_positions


def by_sorting(row, top_k):
    """The definition: largest first, then smallest position; what is -inf is not there."""
    order = sorted((i for i in range(len(row)) if row[i] != -torch.inf), key=lambda i: (-row[i], i))
    return sorted(order[:top_k])


@settings(deadline=None, max_examples=50)
@given(
    rows=st.integers(1, 3).flatmap(
        lambda n: st.lists(
            st.lists(st.sampled_from([-torch.inf, -2.0, -0.5, 0.0, 0.0, 1.0, 3.0]), min_size=n, max_size=n), min_size=1
        )
    ),
    top_k=st.integers(1, 5),
)
def test_against_the_definition(rows, top_k):
    found = top_k_positions(torch.tensor(rows), top_k)
    assert found.dtype == torch.int32
    assert found.shape == (len(rows), min(top_k, len(rows[0])))
    for row, positions in zip(rows, found.tolist(), strict=True):
        expected = by_sorting(row, top_k)
        assert positions == expected + [-1] * (len(positions) - len(expected))


def search(q, weights, keys, ks, ke, top_k):
    """What the kernel finds, into memory that holds something else."""
    out = torch.full((q.shape[0], top_k), 12345, dtype=torch.int32)
    BestTokens(keys, rows=q.shape[0], heads=q.shape[1]).find(q, weights, ks, ke, out.numpy())
    return out


@settings(deadline=None, max_examples=50)
@given(
    rows=st.lists(
        st.lists(st.sampled_from([0.0, 0.0, 1e-30, 0.5, 1.0, 3.0, 1e30, torch.inf]), min_size=40, max_size=40),
        min_size=1,
        max_size=4,
    ),
    top_k=st.integers(1, 40),
    sign=st.sampled_from([1.0, -1.0]),
    size=st.sampled_from([8, 11, 128, 256]),
)
def test_kernel_with_ties_and_infinities(rows, top_k, sign, size):
    for row in rows:  # the score of a one-channel key is the key itself, if it is not negative
        q, weights = torch.ones(1, 1, 1), torch.full((1, 1), sign)
        ks, ke = torch.tensor([2]), torch.tensor([38])
        found = search(q, weights, KeyBlocks(torch.tensor(row)[:, None], size), ks, ke, top_k)
        expected = by_sorting([sign * x if x * sign > -torch.inf else -3e38 for x in row[2:38]], top_k)
        assert found[0].tolist() == expected + [-1] * (top_k - len(expected))


@settings(deadline=None, max_examples=15)
@given(spread=st.sampled_from([1e-3, 1.0, 30.0]), top_k=st.integers(1, 2999), seed=st.integers(0, 99))
def test_kernel_on_long_rows(spread, top_k, seed):
    keys = (torch.randn(3000, generator=torch.Generator().manual_seed(seed)) * spread).exp()  # 30: many are infinite
    q, weights = torch.ones(20, 1, 1), torch.ones(20, 1)
    ks, ke = torch.zeros(20, dtype=torch.int64), torch.full((20,), 3000)
    found = search(q, weights, KeyBlocks(keys[:, None], 128), ks, ke, top_k)
    assert torch.equal(found, top_k_positions(keys.expand(20, 3000), top_k))


def test_kernel_survives_nan():
    keys = torch.full((300, 4), torch.nan)
    q, weights = torch.ones(20, 1, 4), torch.ones(20, 1)
    found = search(q, weights, KeyBlocks(keys, 16), torch.zeros(20).long(), torch.full((20,), 300), 7)
    assert ((found >= -1) & (found < 300)).all()
