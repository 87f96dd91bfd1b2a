"""Window and sinks: blocked against the mask, what is counted, what is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from qkv import DTYPES, SHAPES, assert_as_accurate_as_eager, random_qkv

from attn.core.attention import attention, window_sink
from attn.core.attention.contract import Shape, shape_of


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_blocked_is_as_accurate_as_eager(shape, dtype):
    q, k, v = random_qkv(shape, dtype)
    out = attention("window+sink", q, k, v, causal=True, window=40, num_sinks=3)
    assert_as_accurate_as_eager(out, window_sink.OPERATOR.reference, q, k, v, window=40, num_sinks=3)


@settings(max_examples=25, deadline=None)
@given(
    len_q=st.integers(1, 200),
    more=st.integers(0, 150),
    group=st.integers(1, 2),
    window=st.integers(1, 400),
    num_sinks=st.integers(0, 300),
)
def test_blocked_equals_reference_in_float64(len_q, more, group, window, num_sinks):
    q, k, v = random_qkv((1, 2 * group, 2, len_q, len_q + more, 8), torch.float64)
    params = {"window": window, "num_sinks": num_sinks}
    expected = window_sink.OPERATOR.reference(q, k, v, **params)
    torch.testing.assert_close(window_sink.OPERATOR.blocked(q, k, v, **params), expected, rtol=1e-12, atol=1e-12)
    selection = window_sink.OPERATOR.select(q, k, **params)
    mask = selection.mask(torch.arange(len_q))
    assert mask.shape == (1, 2 * group, len_q, len_q + more)
    assert selection.useful == mask.sum()
    assert selection.useful <= selection.executed
    assert selection.searched == 0


def test_a_query_sees_window_and_sinks():
    seen = window_sink.visible(torch.tensor([1, 9]), torch.arange(12), window=3, num_sinks=2)
    assert seen.int().tolist() == [[1, 1] + [0] * 10, [1, 1, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0]]


def test_a_window_as_long_as_the_keys_is_dense():
    q, k, v = random_qkv((1, 2, 2, 150, 150, 16), torch.float64)
    dense = attention("dense", q, k, v, causal=True, backend="reference")
    torch.testing.assert_close(
        window_sink.OPERATOR.blocked(q, k, v, window=150, num_sinks=0), dense, rtol=1e-12, atol=1e-12
    )


def test_gradients():
    q, k, v = (t.requires_grad_() for t in random_qkv((1, 2, 1, 7, 9, 2), torch.float64))
    assert torch.autograd.gradcheck(lambda *qkv: window_sink.OPERATOR.blocked(*qkv, window=3, num_sinks=1), (q, k, v))


def test_cost_counts_what_a_selection_executes():
    q, k, v = random_qkv((1, 2, 2, 500, 700, 16))
    selection = window_sink.OPERATOR.select(q, k, window=100)
    cost = window_sink.OPERATOR.cost(shape_of(q, k, v, causal=True), window=100)
    assert cost.flops == 4 * 16 * selection.executed
    assert cost.attended == selection.useful / 1000
    assert cost.searched == 0


def test_budget_is_the_number_of_keys_a_late_query_sees():
    params = window_sink.at_budget(300, Shape(1, 1, 1, 4096, 4096, 64, 64, True))
    q, k, _ = random_qkv((1, 1, 1, 1, 4096, 8))
    assert window_sink.OPERATOR.select(q, k, **params).useful == 300


@pytest.mark.parametrize("params", [{"window": 0}, {"num_sinks": -1}], ids=str)
def test_sizes_that_make_no_pattern_are_refused(params):
    q, k, v = random_qkv((1, 1, 1, 8, 8, 8))
    for backend in ("blocked", "reference"):
        with pytest.raises(ValueError, match="must be at least 1"):
            attention("window+sink", q, k, v, causal=True, backend=backend, **params)
    with pytest.raises(ValueError, match="only causal"):
        attention("window+sink", q, k, v, causal=False)
