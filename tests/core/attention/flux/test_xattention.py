"""XAttention's block choice against the definition written out, and the rule that decides what is kept."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from qkv import random_qkv

from attn.core.attention.flux.xattention import block_sums, select_blocks, xattention_mask


def sums_as_defined(q, k, block, stride):
    """Section 3.5, steps 1-3, for one head: q [Lq, D] the last of k [Lk, D]."""
    len_q, len_k = q.shape[0], k.shape[0]
    padded = -(-len_k // block) * block
    scores = torch.zeros(padded, padded, dtype=q.dtype)
    scores[len_k - len_q : len_k, :len_k] = q @ k.mT * q.shape[1] ** -0.5
    tiles = scores.view(padded // stride, stride, padded // stride, stride).transpose(1, 2).flip(-1)
    grouped = tiles.diagonal(dim1=-2, dim2=-1).sum(-1) / stride  # antidiagonals
    prob = grouped.masked_fill(~torch.ones_like(grouped).tril().bool(), -torch.inf).softmax(-1)
    at = torch.arange(padded // stride)
    prob[~((at * stride < len_k) & ((at + 1) * stride > len_k - len_q))] = 0
    groups = block // stride
    sums = prob.view(padded // block, groups, -1, groups).sum((1, 3))
    return sums[(len_k - len_q) // block :]


@settings(max_examples=30, deadline=None)
@given(
    len_q=st.integers(1, 80), past=st.integers(0, 50), blocks=st.sampled_from([(8, 4), (16, 4), (12, 12), (16, 1)]),
    group=st.integers(1, 2),
)  # fmt: skip
def test_block_sums_are_as_defined(len_q, past, blocks, group):
    q, k, _ = random_qkv((1, 2 * group, 2, len_q, len_q + past, 4), torch.float64)
    block, stride = blocks
    ours = block_sums(q, k, block_size=block, stride=stride)
    for h in range(2 * group):
        truth = sums_as_defined(q[0, h], k[0, h // group], block, stride)
        torch.testing.assert_close(ours[0, h], truth, rtol=1e-12, atol=1e-12)


def test_block_sums_over_several_bands():
    q, k, _ = random_qkv((1, 1, 1, 1500, 1500, 4), torch.float64)
    truth = sums_as_defined(q[0, 0], k[0, 0], 16, 2)  # 750 groups, 256 at a time
    torch.testing.assert_close(block_sums(q, k, block_size=16, stride=2)[0, 0], truth, rtol=1e-12, atol=1e-12)


def kept_as_defined(row, i, threshold, first_chunk):
    """Section 3.5, step 4, for query block i with sums ``row``."""
    required = threshold * sum(row)
    forced = {i} if first_chunk else {0, i}
    total = sum(row[j] for j in forced)
    others = sorted((j for j in range(i) if j not in forced), key=lambda j: -row[j])
    kept = set(forced) | {0}
    for n, j in enumerate(others):
        before = sum(row[o] for o in (others[: max(0, n - 1)] if first_chunk else others[:n]))
        if total + before < required or (first_chunk and n == 0):
            kept.add(j)
    return kept


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 999), num_k=st.integers(1, 12), past=st.integers(0, 5), chunk=st.integers(0, 12),
    threshold=st.floats(0.05, 1.0), rule=st.sampled_from(["official", "strict"]),
)  # fmt: skip
def test_selection_is_as_defined(seed, num_k, past, chunk, threshold, rule):
    sums = torch.rand(num_k, num_k, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).tril()
    past = min(past, num_k - 1)
    mask = select_blocks(sums[past:], threshold=threshold, chunk_blocks=chunk, rule=rule)
    for i in range(past, num_k):
        truth = kept_as_defined(sums[i].tolist(), i, threshold, rule == "official" and i < chunk)
        assert set(mask[i - past].nonzero()[:, 0].tolist()) == truth


def test_the_block_that_crosses_the_threshold_is_kept():
    sums = torch.tensor([[1.0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [0.1, 0.2, 0.6, 0.1]])
    strict = select_blocks(sums, threshold=0.5, rule="strict")
    assert strict[3].tolist() == [True, False, True, True]
    assert select_blocks(sums, threshold=0.9, rule="strict")[3].tolist() == [True, True, True, True]
    assert select_blocks(sums, threshold=0.5)[3].tolist() == [True, True, True, True]  # one later than it should


def test_more_mass_keeps_more():
    q, k, _ = random_qkv((1, 2, 1, 512, 512, 16))
    sums = block_sums(2 * q, k, block_size=32, stride=8)
    counts = [int(select_blocks(sums, threshold=t, rule="strict").sum()) for t in (0.3, 0.6, 0.9)]
    assert counts[0] < counts[1] < counts[2]


def test_what_is_refused():
    q, k, _ = random_qkv((1, 1, 1, 64, 64, 4))
    with pytest.raises(ValueError, match="must divide"):
        block_sums(q, k, block_size=32, stride=5)
    with pytest.raises(ValueError, match="multiple of block_size"):
        xattention_mask(q, k, block_size=32, chunk=48)
