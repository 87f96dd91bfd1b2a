"""The oracle: exact top-k per query, blocked against the mask."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pairs import pairs
from qkv import DTYPES, SHAPES, assert_as_accurate_as_eager, random_qkv

from attn.core.attention import attention
from attn.core.attention.contract import Shape
from attn.core.attention.equations import causal_mask
from attn.core.attention.oracle.operator import OPERATOR as oracle


@pytest.mark.parametrize(("shape", "dtype", "causal"), pairs(SHAPES, DTYPES, [True, False]), ids=str)
def test_blocked_is_as_accurate_as_eager(shape, dtype, causal):
    q, k, v = random_qkv(shape, dtype)
    out = attention("oracle", q, k, v, causal=causal, top_k=30)
    assert_as_accurate_as_eager(out, oracle.reference, q, k, v, causal=causal, top_k=30)


@settings(max_examples=25, deadline=None)
@given(
    len_q=st.integers(1, 150),
    more=st.integers(0, 150),
    group=st.integers(1, 2),
    top_k=st.integers(1, 320),
    causal=st.booleans(),
    scale=st.sampled_from([None, -0.5, 2.0]),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
def test_blocked_equals_reference(len_q, more, group, top_k, causal, scale, dtype):
    q, k, v = random_qkv((1, 2 * group, 2, len_q, len_q + more, 8), dtype)
    params = {"causal": causal, "scale": scale, "top_k": top_k}
    tolerance = 1e-12 if dtype == torch.float64 else 2e-6
    expected = oracle.reference(q, k, v, **params)
    torch.testing.assert_close(oracle.blocked(q, k, v, **params), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("scale", [1.0, 0.0])
def test_among_equal_scores_the_first_keys_win(dtype, scale):
    """Scores are small integers: every cut runs through a tie."""
    generator = torch.Generator().manual_seed(1)
    q = torch.ones(1, 1, 50, 1, dtype=dtype)
    k = torch.randint(-2, 3, (1, 1, 50, 1), generator=generator).to(dtype)
    v = torch.eye(50, dtype=dtype)[None, None]
    out = oracle.blocked(q, k, v, causal=True, scale=scale, top_k=10)
    for i in range(50):
        order = sorted(range(i + 1), key=lambda j: (-k[0, 0, j, 0].item() * scale, j))[:10]
        assert out[0, 0, i].nonzero()[:, 0].tolist() == sorted(order)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_selection_counts_and_shows(dtype, causal):
    q, k, _ = random_qkv((2, 2, 1, 60, 90, 16), dtype)
    selection = oracle.select(q, k, causal=causal, top_k=40)
    rows = torch.tensor([0, 59, 7])
    everything, some = selection.mask(torch.arange(60)), selection.mask(rows)
    assert torch.equal(some, everything[:, :, rows])
    assert selection.useful == everything.sum()
    seen = causal_mask(60, 90) if causal else torch.ones(60, 90, dtype=torch.bool)
    assert selection.searched == 4 * seen.sum()
    scores = (q.double() @ k.double().mT).masked_fill(~seen, -torch.inf)
    least = scores.masked_fill(~everything, torch.inf).amin(-1)
    best_left = scores.masked_fill(everything, -torch.inf).amax(-1)
    assert (best_left <= least + 1e-5).all()


@pytest.mark.parametrize("scale", [0.3, -0.3])
def test_both_ways_of_the_cpu_agree(scale):
    """Search and attention in one, and one after the other by way of the cuts."""
    q, k, v = random_qkv((2, 4, 2, 150, 200, 40))
    given = {"causal": True, "scale": scale, "top_k": 20}
    apart = oracle.attend(q, k, v, oracle.select(q, k, **given), **given)
    torch.testing.assert_close(oracle.blocked(q, k, v, **given), apart, rtol=1e-5, atol=5e-6)


def test_as_many_keys_as_there_are_is_dense():
    q, k, v = random_qkv((1, 2, 2, 70, 70, 16), torch.float64)
    dense = attention("dense", q, k, v, causal=True, backend="reference")
    torch.testing.assert_close(oracle.blocked(q, k, v, causal=True, top_k=70), dense, rtol=1e-12, atol=1e-12)


def test_cost_is_honest_about_the_search():
    shape = Shape(1, 2, 1, 4096, 4096, 64, 32, False)
    cost = oracle.cost(shape, **oracle.at_budget(512, shape))
    assert cost.searched == 4096
    assert cost.attended == 512
    assert cost.flops == 2 * 4096 * (2 * 64 * 4096 + 2 * 32 * 512)


def test_at_least_one_key():
    q, k, v = random_qkv((1, 1, 1, 8, 8, 8))
    with pytest.raises(ValueError, match="top_k 0 must be at least 1"):
        attention("oracle", q, k, v, causal=True, top_k=0)
