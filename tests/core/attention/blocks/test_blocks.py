"""The block engine: what a selection counts and shows, and attention over it against the dense mask."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pairs import pairs
from qkv import DTYPES, SHAPES, assert_as_accurate_as_eager, random_qkv

from attn.core.attention import attention
from attn.core.attention.blocks.selection import BlockSelection, attend_blocks
from attn.core.attention.equations import causal_mask, masked_attention


def random_selection(shape, *, causal, block_m=32, block_n=16, density=0.4, seed=0):
    batch, heads, _, len_q, len_k, _ = shape
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(batch, heads, -(-len_q // block_m), -(-len_k // block_n), generator=generator) < density
    sizes = {"block_m": block_m, "block_n": block_n, "len_q": len_q, "len_k": len_k}
    tokens = kept.repeat_interleave(block_m, 2)[:, :, :len_q].repeat_interleave(block_n, 3)[..., :len_k]
    if causal:
        tokens = tokens & causal_mask(len_q, len_k)
    return BlockSelection.from_mask(kept, causal=causal, **sizes), tokens


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_selection_shows_and_counts_what_it_keeps(shape, causal):
    selection, tokens = random_selection(shape, causal=causal)
    rows = torch.randperm(shape[3])[:40]
    assert torch.equal(selection.mask(rows), tokens[:, :, rows])
    assert selection.useful == tokens.sum()
    assert selection.useful <= selection.executed <= shape[0] * shape[1] * shape[3] * shape[4]
    assert causal or selection.useful == selection.executed


def test_causality_empties_blocks_and_lists_are_ascending():
    everything = torch.ones(1, 1, 3, 6, dtype=torch.bool)
    selection = BlockSelection.from_mask(everything, block_m=32, block_n=16, len_q=90, len_k=90, causal=True)
    assert selection.indptr.tolist() == [0, 2, 6, 12]
    assert selection.indices.tolist() == [0, 1, 0, 1, 2, 3, 0, 1, 2, 3, 4, 5]
    assert selection.useful == 90 * 91 // 2


def test_executed_stops_at_the_last_key_a_query_block_sees():
    everything = torch.ones(1, 1, 3, 4, dtype=torch.bool)
    selection = BlockSelection.from_mask(everything, block_m=32, block_n=24, len_q=90, len_k=90, causal=True)
    assert selection.executed == 32 * 32 + 32 * 64 + 26 * 90


def test_runs_of_neighbouring_blocks_are_one_span():
    kept = torch.tensor([1, 1, 0, 1, 0, 1, 1], dtype=torch.bool).view(1, 1, 1, 7)
    selection = BlockSelection.from_mask(kept, block_m=8, block_n=10, len_q=8, len_k=66, causal=False)
    assert selection.spans(0, 0).tolist() == [[0, 20], [30, 40], [50, 66]]


@pytest.mark.parametrize("name", ["dense", "window+sink", "blocktopk", "oracle", "flex"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_no_queries_no_rows(name, dtype):
    q, k, v = random_qkv((2, 2, 1, 0, 70, 16), dtype)
    assert attention(name, q, k, v, causal=True).shape == (2, 2, 0, 16)


@pytest.mark.parametrize(
    ("shape", "dtype", "causal"),
    pairs([*SHAPES, (1, 2, 1, 70, 5000, 128), (2, 2, 2, 40, 40, 256)], DTYPES, [True, False]),
    ids=str,
)
def test_attention_is_as_accurate_as_eager(shape, dtype, causal):
    q, k, v = random_qkv(shape, dtype)
    selection, tokens = random_selection(shape, causal=causal)
    out = attend_blocks(q, k, v, selection)
    assert_as_accurate_as_eager(out, lambda q, k, v: masked_attention(q, k, v, tokens), q, k, v)


@settings(max_examples=25, deadline=None)
@given(
    len_q=st.integers(1, 120),
    more=st.integers(0, 200),
    group=st.integers(1, 3),
    block_m=st.integers(1, 70),
    block_n=st.integers(1, 70),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    causal=st.booleans(),
)
def test_attention_equals_the_masked_reference_in_float64(len_q, more, group, block_m, block_n, density, causal):
    shape = (1, 2 * group, 2, len_q, len_q + more, 8)
    q, k, v = random_qkv(shape, torch.float64)
    v = v[..., :5]
    selection, tokens = random_selection(shape, causal=causal, block_m=block_m, block_n=block_n, density=density)
    out, lse = attend_blocks(q, k, v, selection, scale=0.7, return_lse=True)
    torch.testing.assert_close(out, masked_attention(q, k, v, tokens, scale=0.7), rtol=1e-12, atol=1e-12)
    scores = (q @ k.repeat_interleave(group, 1).mT * 0.7).masked_fill(~tokens, -torch.inf)
    torch.testing.assert_close(lse, scores.logsumexp(-1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("causal", [True, False])
def test_gradients(causal):
    shape = (1, 2, 1, 5, 8, 2)
    q, k, v = (t.requires_grad_() for t in random_qkv(shape, torch.float64))
    selection, _ = random_selection(shape, causal=causal, block_m=3, block_n=2, density=0.6)

    def run(q, k, v):
        out, lse = attend_blocks(q, k, v, selection, return_lse=True)
        return out, lse.clamp(min=-1e3)  # rows without keys have minus infinity

    assert torch.autograd.gradcheck(run, (q, k, v))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gradients_of_the_working_dtypes(dtype):
    shape = (1, 4, 2, 90, 90, 32)
    selection, tokens = random_selection(shape, causal=True)

    def gradients(attend, dtype):
        leaves = [t.to(dtype).requires_grad_() for t in random_qkv(shape, torch.bfloat16)]
        return torch.autograd.grad(attend(*leaves).double().square().sum(), leaves)

    def dense(q, k, v):
        return masked_attention(q, k, v, tokens)

    ours = gradients(lambda q, k, v: attend_blocks(q, k, v, selection), dtype)
    for grad, eager, truth in zip(ours, gradients(dense, dtype), gradients(dense, torch.float64), strict=True):
        assert (grad - truth).abs().max() <= 2 * (eager - truth).abs().max() + 1e-5


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_same_bits_whatever_the_number_of_threads(dtype):
    shape = (1, 4, 2, 200, 600, 64)
    q, k, v = random_qkv(shape, dtype)
    selection, _ = random_selection(shape, causal=True)
    before = torch.get_num_threads()
    try:
        outs = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            outs.append(attend_blocks(q, k, v, selection))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(outs[0], outs[1])
    assert torch.equal(outs[0], outs[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_layout_of_the_inputs_does_not_matter(dtype):
    shape = (1, 2, 2, 64, 64, 32)
    q, k, v = random_qkv(shape, dtype)
    selection, _ = random_selection(shape, causal=True)
    strided = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in (q, k)]
    every_other = torch.stack((v, v), -1).flatten(-2)[..., ::2]
    torch.testing.assert_close(
        attend_blocks(*strided, every_other, selection), attend_blocks(q, k, v, selection), rtol=0, atol=0
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_large_scores_do_not_overflow(dtype):
    shape = (1, 1, 1, 64, 64, 32)
    q, k, v = random_qkv(shape, dtype)
    selection, tokens = random_selection(shape, causal=True, density=0.7)
    q = q * 300
    out = attend_blocks(q, k, v, selection)
    assert_as_accurate_as_eager(out, lambda q, k, v: masked_attention(q, k, v, tokens), q, k, v)


def test_what_does_not_fit_is_refused():
    shape = (1, 2, 2, 64, 64, 32)
    q, k, v = random_qkv(shape)
    selection, _ = random_selection(shape, causal=True)
    with pytest.raises(ValueError, match=r"selection is for .* \(1, 2, 64, 64\), q and k have \(1, 2, 63, 64\)"):
        attend_blocks(q[:, :, 1:], k, v, selection)
    mask = torch.ones(1, 1, 3, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"needs \[batch, heads, 2, 4\]"):
        BlockSelection.from_mask(mask, block_m=32, block_n=16, len_q=64, len_k=64, causal=True)
