"""Hierarchical indexing as an operator: blocked against its equations, its limits, and what it refuses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pairs import pairs
from qkv import DTYPES, SHAPES, LargestTensor, assert_as_accurate_as_eager, random_qkv

from attn.core.attention import attention
from attn.core.attention.contract import Shape
from attn.core.attention.indexer.dsa import OPERATOR as dsa
from attn.core.attention.indexer.hisa import OPERATOR as hisa
from attn.core.attention.indexer.module import index_iou

SMALL = {"top_k": 23, "block_size": 16, "top_blocks": 4}


@pytest.mark.parametrize(("shape", "dtype", "causal"), pairs(SHAPES, DTYPES, [True, False]), ids=str)
def test_blocked_matches_reference(shape, dtype, causal):
    q, k, v = random_qkv(shape, dtype)
    out = attention("hisa", q, k, v, causal=causal, **SMALL)
    assert_as_accurate_as_eager(out, hisa.reference, q, k, v, causal=causal, **SMALL)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float64_is_the_reference(shape):
    q, k, v = random_qkv(shape, torch.float64)
    torch.testing.assert_close(
        attention("hisa", q, k, v, causal=True, **SMALL),
        hisa.reference(q, k, v, causal=True, **SMALL),
        rtol=1e-12,
        atol=1e-14,
    )


@settings(deadline=None, max_examples=25)
@given(
    kv_heads=st.integers(1, 2), group=st.integers(1, 3), len_k=st.integers(1, 150), missing=st.integers(0, 149),
    dim=st.sampled_from([16, 32, 40, 80]), block_size=st.integers(3, 33), top_blocks=st.integers(2, 5),
    causal=st.booleans(), seed=st.integers(0, 99), data=st.data(),
)  # fmt: skip
def test_any_shape(kv_heads, group, len_k, missing, dim, block_size, top_blocks, causal, seed, data):
    top_k = data.draw(st.integers(1, block_size * top_blocks))
    params = {"top_k": top_k, "block_size": block_size, "top_blocks": top_blocks}
    q, k, v = random_qkv((1, kv_heads * group, kv_heads, max(1, len_k - missing), len_k, dim), seed=seed)
    out = attention("hisa", q, k, v, causal=causal, **params)
    assert_as_accurate_as_eager(out, hisa.reference, q, k, v, causal=causal, **params)


@pytest.mark.parametrize("quant", ["fp8", "fp8-ue8m0"])
def test_quantised_search(quant):
    q, k, v = random_qkv((1, 4, 2, 90, 200, 64))
    out = attention("hisa", q, k, v, causal=True, quant=quant, **SMALL)
    torch.testing.assert_close(out, hisa.reference(q, k, v, causal=True, quant=quant, **SMALL), rtol=1e-4, atol=1e-5)
    exact, rounded = (hisa.select(q, k, causal=True, quant=x, **SMALL).indices for x in ("none", quant))
    assert 0.7 < index_iou(exact, rounded).mean() < 1


def test_bf16_comparison_of_blocks():
    q, k, v = random_qkv((1, 2, 1, 90, 400, 64))
    out = attention("hisa", q, k, v, causal=True, coarse_dtype="bf16", **SMALL)
    truth = hisa.reference(q, k, v, causal=True, coarse_dtype="bf16", **SMALL)
    torch.testing.assert_close(out, truth, rtol=1e-4, atol=1e-5)


def test_enough_blocks_are_the_flat_search():
    q, k, _ = random_qkv((1, 2, 1, 100, 100, 32))
    flat = dsa.select(q, k, causal=True, top_k=20).indices
    assert torch.equal(hisa.select(q, k, causal=True, top_k=20, block_size=16, top_blocks=7).indices, flat)
    assert not torch.equal(hisa.select(q, k, causal=True, top_k=20, block_size=16, top_blocks=2).indices, flat)


def test_min_seq_is_the_flat_search_below_it():
    q, k, v = random_qkv((1, 2, 1, 100, 100, 32))
    flat = attention("dsa", q, k, v, causal=True, top_k=23)
    assert torch.equal(attention("hisa", q, k, v, causal=True, min_seq=101, **SMALL), flat)
    assert not torch.equal(attention("hisa", q, k, v, causal=True, min_seq=100, **SMALL), flat)
    torch.testing.assert_close(hisa.reference(q, k, v, causal=True, min_seq=101, **SMALL), flat, rtol=1e-5, atol=1e-5)


def test_first_and_own_block_are_always_searched():
    q, k, _ = random_qkv((1, 1, 1, 128, 128, 32))
    mask = hisa.select(q, k, causal=True, top_k=32, block_size=16, top_blocks=2).mask(torch.tensor([127]))
    assert mask[0, 0, 0, :16].all()
    assert mask[0, 0, 0, -16:].all()


def test_attending_to_the_selection_is_blocked():
    q, k, v = random_qkv((2, 4, 2, 65, 197, 32))
    selection = hisa.select(q, k, causal=True, **SMALL)
    out = hisa.attend(q, k, v, selection, causal=True)
    torch.testing.assert_close(out, attention("hisa", q, k, v, causal=True, **SMALL), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["hisa", "dsa"])
def test_memory_is_linear(name):
    length = 8192
    q, k, v = random_qkv((1, 1, 1, length, length, 16))
    params = {"top_k": 32} | ({"block_size": 64, "top_blocks": 4} if name == "hisa" else {})
    with LargestTensor() as largest:
        attention(name, q, k, v, causal=True, **params)
    assert largest.elements <= 1 << 23  # the scores of a chunk of queries, whatever the length


def test_same_bits_with_any_number_of_threads():
    q, k, v = random_qkv((1, 2, 1, 333, 400, 64))
    before, outputs = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            outputs.append(attention("hisa", q, k, v, causal=True, **SMALL))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_decoder_is_the_last_row(dtype):
    q, k, v = random_qkv((2, 4, 2, 3, 333, 40), dtype)
    out = hisa.decoder(q, k, v, **SMALL)()
    truth = hisa.reference(*(t.double() for t in (q, k, v)), causal=True, **SMALL)[:, :, -1:]
    torch.testing.assert_close(out.double(), truth, rtol=2e-2, atol=2e-2 if dtype == torch.bfloat16 else 1e-5)
    assert out.dtype == dtype


def test_cost_counts_the_keys_visited():
    shape = Shape(1, 4, 2, 60, 197, 32, 32, True)
    q, k, _ = random_qkv((1, 4, 2, 60, 197, 32))
    selection = hisa.select(q, k, causal=True, **SMALL)
    predicted = hisa.cost(shape, **SMALL)
    assert predicted.attended * 4 * 60 == pytest.approx(selection.useful)
    assert predicted.searched * 4 * 60 == pytest.approx(selection.searched, rel=1e-3)


@pytest.mark.parametrize(("keys", "length"), [(256, 4096), (512, 4096), (512, 8192), (4096, 32768), (10240, 131072)])
def test_at_budget_visits_that_many_keys(keys, length):
    shape = Shape(1, 1, 1, length, length, 64, 64, True)
    predicted = hisa.cost(shape, **hisa.at_budget(keys, shape))
    assert predicted.searched + predicted.attended == pytest.approx(keys, rel=0.25)


def test_gradients():
    q, k, v = (t.requires_grad_() for t in random_qkv((1, 2, 1, 6, 15, 4), torch.float64))
    params = {"top_k": 5, "block_size": 3, "top_blocks": 3}
    assert torch.autograd.gradcheck(lambda *t: hisa.blocked(*t, causal=True, **params), (q, k, v))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"top_k": 0}, "top_k is 0, outside 1..64"),
        ({"top_k": 65}, "Lower top_k or raise top_blocks"),
        ({"top_blocks": 1}, "top_blocks is 1; the first and the last block"),
        ({"block_size": 0}, "block_size is 0; pass 1 to 512 tokens"),
        ({"block_size": 513}, "block_size is 513; pass 1 to 512 tokens"),
        ({"coarse_dtype": "fp16"}, "fp32 or bf16, not 'fp16'"),
        ({"quant": "int8"}, "quant is one of none, fp8, fp8-ue8m0, not 'int8'"),
        ({"min_seq": -1}, "min_seq is -1"),
    ],
)
def test_refuses_bad_parameters(params, message):
    q, k, v = random_qkv((1, 1, 1, 64, 64, 32))
    with pytest.raises(ValueError, match=message):
        attention("hisa", q, k, v, causal=True, **(SMALL | params))
