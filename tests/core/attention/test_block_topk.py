"""Block top-k: which blocks it chooses, and blocked against the mask."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pairs import pairs
from qkv import DTYPES, SHAPES, assert_as_accurate_as_eager, random_qkv

from attn.core.attention import attention, block_topk
from attn.core.attention.contract import Shape


@pytest.mark.parametrize(("shape", "dtype", "causal"), pairs(SHAPES, DTYPES, [True, False]), ids=str)
def test_blocked_is_as_accurate_as_eager(shape, dtype, causal):
    q, k, v = random_qkv(shape, dtype)
    params = {"causal": causal, "block_size": 16, "top_k": 3}
    assert_as_accurate_as_eager(
        attention("blocktopk", q, k, v, **params), block_topk.OPERATOR.reference, q, k, v, **params
    )


@settings(max_examples=25, deadline=None)
@given(
    len_q=st.integers(1, 150),
    more=st.integers(0, 150),
    group=st.integers(1, 2),
    block_size=st.integers(1, 80),
    top_k=st.integers(1, 5),
    causal=st.booleans(),
)
def test_blocked_equals_reference_in_float64(len_q, more, group, block_size, top_k, causal):
    q, k, v = random_qkv((1, 2 * group, 2, len_q, len_q + more, 8), torch.float64)
    params = {"causal": causal, "block_size": block_size, "top_k": top_k}
    expected = block_topk.OPERATOR.reference(q, k, v, **params)
    torch.testing.assert_close(block_topk.OPERATOR.blocked(q, k, v, **params), expected, rtol=1e-12, atol=1e-12)


def test_the_best_block_is_found_and_own_and_first_are_kept():
    q, k, _ = random_qkv((1, 1, 1, 64, 64, 8))
    k[:, :, 16:24] = q[:, :, 56:64].mean(2, keepdim=True) * 10  # block 2 answers the last query block
    kept = block_topk.choose_blocks(q, k, causal=True, settings=block_topk.Settings(8, 3))[0, 0]
    assert kept[7].nonzero()[:, 0].tolist() == [0, 2, 7]
    assert kept.sum(-1).tolist() == [1, 2, 3, 3, 3, 3, 3, 3]
    assert kept.diagonal().all()


def test_pooling_averages_a_short_last_block_over_what_it_has():
    x = torch.arange(10.0).view(1, 1, 5, 2)
    assert block_topk.pool(x, 3).tolist() == [[[[2, 3], [7, 8]]]]


def test_pooling_accumulates_in_float32():
    x = torch.full((1, 1, 4096, 1), 1.0, dtype=torch.float16) * 100
    assert block_topk.pool(x, 4096).item() == 100  # the sum, 409600, is beyond float16


@pytest.mark.parametrize("causal", [True, False])
def test_search_is_counted(causal):
    q, k, _ = random_qkv((2, 2, 1, 100, 130, 8))
    assert block_topk.OPERATOR.select(q, k, causal=causal, block_size=16, top_k=2).searched == 2 * 2 * 7 * 9


def test_gradients():
    q, k, v = (t.requires_grad_() for t in random_qkv((1, 1, 1, 6, 8, 2), torch.float64))
    assert torch.autograd.gradcheck(
        lambda *qkv: block_topk.OPERATOR.blocked(*qkv, causal=True, block_size=2, top_k=2), (q, k, v)
    )


def test_budget_includes_the_search():
    shape = Shape(1, 1, 1, 8192, 8192, 64, 64, True)
    params = block_topk.at_budget(1000, shape)
    cost = block_topk.OPERATOR.cost(shape, **params)
    assert abs(cost.attended + cost.searched - 1000) <= 32


@pytest.mark.parametrize("params", [{"block_size": 0}, {"top_k": 0}], ids=str)
def test_sizes_are_checked(params):
    q, k, v = random_qkv((1, 1, 1, 8, 8, 8))
    with pytest.raises(ValueError, match="must be at least 1"):
        attention("blocktopk", q, k, v, causal=True, **params)
