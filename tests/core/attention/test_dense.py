"""Dense attention: the engine over everything, and the baseline, against the equation."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from other_cpus import AMX
from pairs import pairs
from qkv import DTYPES, SHAPES, LargestTensor, assert_as_accurate_as_eager, random_qkv

from attn.core.attention import attention, dense
from attn.core.attention.contract import shape_of
from attn.core.cpu import cpu_as


@pytest.fixture(autouse=True, scope="module")
def tiles_at_every_length():
    """Few keys are PyTorch's on every processor, which ``blocks/test_engines.py`` tests; here they are the engine's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dense, "sdpa_leads", lambda dtype, keys: False)
        yield


@pytest.fixture
def one_thread():
    """The calling thread does all the work, where the dispatch mode sees it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


WAYS = {"blocked": dense.OPERATOR.blocked, "sdpa": dense.sdpa}


@pytest.mark.parametrize(
    ("shape", "dtype", "causal", "way"),
    pairs([*SHAPES, (1, 1, 1, 700, 1500, 96), (1, 2, 1, 40, 60, 256)], DTYPES, [True, False], list(WAYS)),
    ids=str,
)
def test_as_accurate_as_eager(shape, dtype, causal, way):
    q, k, v = random_qkv(shape, dtype)
    out = WAYS[way](q, k, v, causal=causal)
    assert_as_accurate_as_eager(out, dense.OPERATOR.reference, q, k, v, causal=causal)


@settings(max_examples=25, deadline=None)
@given(
    len_q=st.integers(1, 120),
    more=st.integers(0, 200),
    group=st.integers(1, 3),
    value_dim=st.sampled_from([5, 8, 11]),
    block_m=st.integers(1, 70),
    block_n=st.integers(1, 70),
    causal=st.booleans(),
)
def test_blocked_and_sdpa_equal_reference_in_float64(len_q, more, group, value_dim, block_m, block_n, causal):
    q, k, _ = random_qkv((2, 2 * group, 2, len_q, len_q + more, 8), torch.float64)
    v = torch.randn(2, 2, len_q + more, value_dim, dtype=torch.float64)
    expected = dense.OPERATOR.reference(q, k, v, causal=causal, scale=0.3)
    ours = dense.OPERATOR.blocked(q, k, v, causal=causal, scale=0.3, block_m=block_m, block_n=block_n)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(dense.sdpa(q, k, v, causal=causal, scale=0.3), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("scale", [-0.4, 0.0, 5.0])
def test_any_scale(scale, dtype):
    q, k, v = random_qkv((1, 2, 2, 90, 90, 32), dtype)
    out = dense.OPERATOR.blocked(q, k, v, causal=True, scale=scale)
    assert_as_accurate_as_eager(out, dense.OPERATOR.reference, q, k, v, causal=True, scale=scale)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scale", [-0.4, 0.0])
@pytest.mark.parametrize("length", [16, 90])
def test_pytorchs_attention_hides_keys_whatever_the_scale(length, scale, dtype):
    """By itself it scales what it has hidden with minus infinity."""
    q, k, v = random_qkv((2, 4, 2, length, length, 32), dtype)
    truth = dense.OPERATOR.reference(*(x.double() for x in (q, k, v)), causal=True, scale=scale)
    with cpu_as(AMX):
        assert (dense.OPERATOR.blocked(q, k, v, causal=True, scale=scale) - truth).abs().max() < 0.02
    assert (dense.sdpa(q, k, v, causal=True, scale=scale) - truth).abs().max() < 0.02


def test_infinity_times_a_scale_of_zero_is_no_number():
    q, k, v = random_qkv((1, 2, 2, 1, 9, 32))
    k[0, 0, 3, 5] = torch.inf
    q[0, 1], k[0, 1] = 1.0, -torch.inf
    assert dense.OPERATOR.blocked(q, k, v, causal=True, scale=0.0).isnan().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_nan_in_a_key_reaches_the_rows_that_see_it_and_no_other(dtype, sign):
    q, k, v = random_qkv((1, 1, 1, 80, 80, 32), dtype)
    k[0, 0, 50, 3] = torch.nan * sign
    out = dense.OPERATOR.blocked(q, k, v, causal=True, block_m=16, block_n=24)
    assert out[0, 0, 50:].isnan().all()
    assert out[0, 0, :48].isfinite().all()  # the tile of row 48 holds the key, SDPA's too


@pytest.mark.parametrize("causal", [True, False])
def test_gradients(causal):
    q, k, v = (t.requires_grad_() for t in random_qkv((1, 2, 1, 5, 7, 2), torch.float64))
    assert torch.autograd.gradcheck(
        lambda *qkv: dense.OPERATOR.blocked(*qkv, causal=causal, block_m=2, block_n=3), (q, k, v)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_no_tensor_larger_than_the_inputs(one_thread, dtype):
    q, k, v = random_qkv((1, 1, 1, 3000, 3000, 64), dtype)
    with LargestTensor() as largest:
        dense.OPERATOR.blocked(q, k, v, causal=True, block_m=64, block_n=256)
    assert largest.elements == q.numel()  # the result


def test_sdpa_makes_no_mask_of_all_pairs(one_thread, monkeypatch):
    monkeypatch.setattr(dense, "_MASK_ENTRIES", 1 << 14)
    q, k, v = random_qkv((1, 1, 1, 1000, 1001, 64))
    with LargestTensor() as largest:
        dense.sdpa(q, k, v[..., :32], causal=True)
    assert largest.elements < 200_000


def test_blocks_must_hold_something():
    q, k, v = random_qkv((1, 1, 1, 8, 8, 8))
    for size in ("block_m", "block_n"):
        with pytest.raises(ValueError, match="must be at least 1"):
            attention("dense", q, k, v, causal=True, **{size: 0})


@pytest.mark.parametrize(("causal", "pairs"), [(True, 3 * 2 * (40 * 70 - 40 * 39 // 2)), (False, 3 * 2 * 40 * 70)])
def test_cost_counts_visible_pairs(causal, pairs):
    q, k, v = random_qkv((3, 2, 1, 40, 70, 16))
    cost = dense.OPERATOR.cost(shape_of(q, k, v[..., :8], causal=causal))
    assert cost.flops == 2 * (16 + 8) * pairs
    assert cost.bytes == 4 * 3 * (16 + 8) * (2 * 40 + 70)
    assert cost.attended == pairs / (3 * 2 * 40)
