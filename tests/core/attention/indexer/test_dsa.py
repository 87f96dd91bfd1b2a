"""The flat lightning indexer as an operator: blocked against its equations, and what it refuses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pairs import pairs
from qkv import DTYPES, SHAPES, assert_as_accurate_as_eager, random_qkv

from attn.core.attention import attention
from attn.core.attention.contract import Shape
from attn.core.attention.equations import causal_mask, masked_attention
from attn.core.attention.indexer.dsa import OPERATOR as dsa


@pytest.mark.parametrize(("shape", "dtype", "causal"), pairs(SHAPES, DTYPES, [True, False]), ids=str)
def test_blocked_matches_reference(shape, dtype, causal):
    q, k, v = random_qkv(shape, dtype)
    out = attention("dsa", q, k, v, causal=causal, top_k=23)
    assert_as_accurate_as_eager(out, dsa.reference, q, k, v, causal=causal, top_k=23)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float64_is_the_reference(shape):
    q, k, v = random_qkv(shape, torch.float64)
    torch.testing.assert_close(
        attention("dsa", q, k, v, causal=True, top_k=23),
        dsa.reference(q, k, v, causal=True, top_k=23),
        rtol=1e-12,
        atol=1e-14,
    )


@settings(deadline=None, max_examples=25)
@given(
    kv_heads=st.integers(1, 2), group=st.integers(1, 3), len_k=st.integers(1, 90), missing=st.integers(0, 89),
    dim=st.sampled_from([16, 32, 40, 80]), top_k=st.integers(1, 100), causal=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_any_shape(kv_heads, group, len_k, missing, dim, top_k, causal, seed):
    len_q = max(1, len_k - missing)
    q, k, v = random_qkv((1, kv_heads * group, kv_heads, len_q, len_k, dim), seed=seed)
    out = attention("dsa", q, k, v, causal=causal, top_k=top_k)
    assert_as_accurate_as_eager(out, dsa.reference, q, k, v, causal=causal, top_k=top_k)


def test_choosing_every_key_is_dense_attention():
    q, k, v = random_qkv((1, 4, 2, 70, 90, 32))
    dense = masked_attention(q, k, v, causal_mask(70, 90))
    torch.testing.assert_close(attention("dsa", q, k, v, causal=True, top_k=90), dense, rtol=1e-5, atol=1e-5)


def test_selection_holds_the_largest_scores():
    q, k, _ = random_qkv((1, 2, 2, 40, 60, 32))
    selection = dsa.select(q, k, causal=True, top_k=8)
    rows = torch.tensor([0, 17, 39])
    mask = selection.mask(rows)
    scores = (q[:, :, rows] @ k.mT).relu().masked_fill(~causal_mask(40, 60)[rows], -torch.inf)
    assert (mask.sum(-1) == 8).all()
    assert (scores.masked_fill(~mask, torch.inf).amin(-1) >= scores.masked_fill(mask, -torch.inf).amax(-1)).all()
    assert selection.useful == selection.executed == 2 * 40 * 8
    assert selection.searched == Shape(1, 2, 2, 40, 60, 32, 32, True).pairs


def test_attending_to_the_selection_is_blocked():
    q, k, v = random_qkv((2, 4, 2, 65, 97, 32))
    selection = dsa.select(q, k, causal=True, top_k=16)
    out = dsa.attend(q, k, v, selection, causal=True)
    torch.testing.assert_close(out, attention("dsa", q, k, v, causal=True, top_k=16), rtol=1e-5, atol=1e-6)


def test_one_head_per_key_head_reuses_its_scores():
    q, k, v = random_qkv((2, 2, 2, 65, 97, 32))  # early queries choose keys whose score the ReLU hid
    out = attention("dsa", q, k, v, causal=True, top_k=60)
    again = dsa.attend(q, k, v, dsa.select(q, k, causal=True, top_k=60), causal=True)
    torch.testing.assert_close(out, again, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_same_bits_with_any_number_of_threads(threads):
    q, k, v = random_qkv((1, 2, 1, 333, 400, 64))
    before = torch.get_num_threads()
    first = attention("dsa", q, k, v, causal=True, top_k=50)
    try:
        torch.set_num_threads(threads)
        assert torch.equal(attention("dsa", q, k, v, causal=True, top_k=50), first)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_decoder_is_the_last_row(dtype):
    q, k, v = random_qkv((2, 4, 2, 3, 333, 40), dtype)
    out = dsa.decoder(q, k, v, top_k=23)()
    truth = dsa.reference(*(t.double() for t in (q, k, v)), causal=True, top_k=23)[:, :, -1:]
    torch.testing.assert_close(out.double(), truth, rtol=2e-2, atol=2e-2 if dtype == torch.bfloat16 else 1e-5)
    assert out.dtype == dtype


def test_cost_counts_the_keys_visited():
    shape = Shape(1, 4, 2, 60, 97, 32, 32, True)
    q, k, _ = random_qkv((1, 4, 2, 60, 97, 32))
    selection = dsa.select(q, k, causal=True, top_k=50)
    predicted = dsa.cost(shape, top_k=50)
    assert predicted.attended * 4 * 60 == pytest.approx(selection.useful)
    assert predicted.searched * 4 * 60 == pytest.approx(selection.searched)


def test_gradients():
    q, k, v = (t.requires_grad_() for t in random_qkv((1, 2, 1, 6, 11, 4), torch.float64))
    assert torch.autograd.gradcheck(lambda *t: dsa.blocked(*t, causal=True, top_k=5), (q, k, v))


def test_gradients_of_the_working_dtype_match_float64():
    q, k, v = (t.requires_grad_() for t in random_qkv((1, 4, 2, 50, 70, 32)))
    grads = torch.autograd.grad(dsa.blocked(q, k, v, causal=True, top_k=9).square().sum(), (q, k, v))
    doubles = [t.detach().double().requires_grad_() for t in (q, k, v)]
    truth = torch.autograd.grad(dsa.reference(*doubles, causal=True, top_k=9).square().sum(), doubles)
    for ours, theirs in zip(grads, truth, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-4)


def test_non_contiguous_and_value_width():
    q, k, v = random_qkv((1, 4, 2, 33, 50, 32))
    v = torch.cat((v, v), -1)
    out = attention("dsa", q, k, v, causal=True, top_k=7)
    strided = (t.transpose(1, 2).contiguous().transpose(1, 2) for t in (q, k, v))
    assert torch.equal(attention("dsa", *strided, causal=True, top_k=7), out)
    torch.testing.assert_close(out, dsa.reference(q, k, v, causal=True, top_k=7), rtol=1e-5, atol=1e-5)


def test_scale_is_used():
    q, k, v = random_qkv((1, 1, 1, 33, 50, 32))
    out = attention("dsa", q, k, v, causal=True, top_k=7, scale=0.5)
    torch.testing.assert_close(out, dsa.reference(q, k, v, causal=True, top_k=7, scale=0.5), rtol=1e-5, atol=1e-5)


def test_refuses_no_tokens():
    q, k, v = random_qkv((1, 1, 1, 4, 4, 32))
    with pytest.raises(ValueError, match="top_k is 0; choose at least one"):
        attention("dsa", q, k, v, causal=True, top_k=0)
