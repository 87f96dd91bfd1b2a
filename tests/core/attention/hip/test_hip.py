import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from qkv import SHAPES, LargestTensor, assert_as_accurate_as_eager, random_qkv

from attn.core.attention import attention
from attn.core.attention.contract import Shape
from attn.core.attention.equations import masked_attention
from attn.core.attention.hip.operator import OPERATOR, HipDecoder, at_budget

reference, blocked, cost = OPERATOR.reference, OPERATOR.blocked, OPERATOR.cost
select, attend = OPERATOR.select, OPERATOR.attend
SMALL = {"mask_k": 32, "block_size_q": 16, "sliding_window": 24, "sink": 5}
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
VARIANTS = [
    {},
    {"block_size_k": 1, "query_stride": 1, "query_offset": 0},
    {"block_size_k": 8, "block_size_q": 32, "query_stride": 3, "query_offset": 2},
    {"block_size_k_group": 4, "block_size_k": 1},
    {"block_size_k_group": 2, "block_size_k": 2, "sliding_window": 7},
    {"representative": "center"},
    {"representative": "random", "seed": 5},
    {"dense_queries": 40},
    {"sliding_window": 0, "sink": 0},
    {"sliding_window": 3, "block_size_q": 64},
    {"mask_k": 96},
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_blocked_equals_reference(shape, dtype):
    q, k, v = random_qkv(shape, dtype)
    out = attention("hip", q, k, v, causal=True, **SMALL)
    assert_as_accurate_as_eager(out, reference, q, k, v, causal=True, **SMALL)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("shape", [(2, 4, 2, 97, 230, 32), (1, 6, 2, 1, 301, 80)], ids=str)
def test_every_parameter_means_the_same_in_both_formulations(shape, variant):
    params = SMALL | variant
    q, k, v = random_qkv(shape, torch.float64)
    truth = reference(q, k, v, causal=True, **params)
    torch.testing.assert_close(blocked(q, k, v, causal=True, **params), truth, rtol=1e-12, atol=1e-12)
    q, k, v = (t.float() for t in (q, k, v))
    assert_as_accurate_as_eager(blocked(q, k, v, causal=True, **params), reference, q, k, v, causal=True, **params)


@settings(deadline=None, max_examples=25)
@given(
    len_k=st.integers(1, 260), share=st.floats(0, 1), heads=st.sampled_from([(1, 1), (4, 2), (3, 1)]),
    dim=st.sampled_from([32, 80]), value_dim=st.sampled_from([16, 40]), variant=st.sampled_from(VARIANTS),
)  # fmt: skip
def test_blocked_equals_reference_at_any_length(len_k, share, heads, dim, value_dim, variant):
    len_q = max(1, round(share * len_k))
    q, k, _ = random_qkv((1, *heads, len_q, len_k, dim))
    v = random_qkv((1, *heads, len_q, len_k, value_dim), seed=1)[2]
    params = SMALL | variant
    assert_as_accurate_as_eager(blocked(q, k, v, causal=True, **params), reference, q, k, v, causal=True, **params)


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("len_q", [1, 40])
def test_scores_are_not_rounded_to_the_inputs_dtype(len_q, backend):
    """float16 ends at 65504: products of queries and keys of a hundred are greater."""
    q, k, v = random_qkv((1, 4, 2, len_q, 300, 64), torch.float16)
    q, k = (q * 100).contiguous(), k * 100
    out = attention("hip", q, k, v, causal=True, backend=backend, **SMALL)
    truth = attention("hip", q.float(), k.float(), v.float(), causal=True, backend="reference", **SMALL)
    assert (out - truth).abs().max() < 2e-3


def test_a_budget_for_every_key_is_dense_attention():
    q, k, v = random_qkv((1, 2, 1, 150, 200, 32))
    out = blocked(q, k, v, causal=True, mask_k=200)
    torch.testing.assert_close(out, attention_of_torch(q, k, v))


def attention_of_torch(q, k, v):
    mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(k.shape[2] - q.shape[2])
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)


def test_dense_queries_are_dense_up_to_the_end_of_their_block():
    q, k, v = random_qkv((1, 2, 1, 200, 200, 32))
    out = blocked(q, k, v, causal=True, **SMALL, dense_queries=100)
    torch.testing.assert_close(out[:, :, :112], attention_of_torch(q, k, v)[:, :, :112])
    assert not torch.allclose(out[:, :, 112:], attention_of_torch(q, k, v)[:, :, 112:], atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 2, 1, 300, 300, 32), (1, 4, 2, 1, 300, 32)], ids=str)
@pytest.mark.parametrize("representative", ["first", "center", "random"])
def test_a_key_that_stands_out_with_its_neighbours_is_found(shape, representative):
    q, k, _ = random_qkv(shape)
    direction = q.mean((1, 2), keepdim=True)
    direction *= q.shape[-1] ** 0.5 / direction.norm()
    k[:, :, 64:96] += 3 * direction
    selection = select(q + direction, k, causal=True, **SMALL | {"mask_k": 64}, representative=representative)
    mask = selection.mask(torch.tensor([shape[3] - 1]))
    assert mask[..., 64:96].float().mean() > 0.9  # a budget of twice their number finds them but for a ragged edge


def test_the_random_representative_follows_its_seed():
    q, k, _ = random_qkv((1, 1, 1, 300, 300, 32))
    starts = [select(q, k, causal=True, **SMALL, representative="random", seed=s).starts for s in (0, 0, 1)]
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("shape", [(2, 4, 2, 100, 230, 32), (1, 4, 2, 1, 230, 32)], ids=str)
def test_the_selection_counts_its_own_mask(shape, variant):
    q, k, _ = random_qkv(shape)
    selection = select(q, k, causal=True, **SMALL | variant)
    mask = selection.mask(torch.arange(shape[3]))
    assert mask.shape == (*shape[:2], shape[3], shape[4])
    assert selection.useful == mask.sum()
    assert selection.useful <= selection.executed
    assert selection.searched > 0
    some = torch.tensor([shape[3] - 1, 0])
    assert torch.equal(selection.mask(some), mask[:, :, some])


def test_queries_see_themselves_and_nothing_later():
    q, k, _ = random_qkv((1, 2, 1, 130, 200, 32))
    for variant in VARIANTS:
        mask = select(q, k, causal=True, **SMALL | variant).mask(torch.arange(130))
        position = torch.arange(70, 200)
        assert mask[..., torch.arange(130), position].all()
        assert not (mask & (torch.arange(200) > position[:, None])).any()


def test_later_keys_change_no_earlier_block():
    q, k, v = random_qkv((1, 1, 1, 256, 256, 32))
    out = blocked(q, k, v, causal=True, **SMALL)
    k2, v2 = k.clone(), v.clone()
    k2[:, :, 160:], v2[:, :, 160:] = 9, -9
    assert torch.equal(blocked(q, k2, v2, causal=True, **SMALL)[:, :, :160], out[:, :, :160])


@pytest.mark.parametrize("shape", [(1, 2, 1, 40, 90, 32), (1, 2, 1, 1, 90, 32)], ids=str)
def test_gradients(shape):
    inputs = tuple(t.requires_grad_() for t in random_qkv(shape, torch.float64))
    torch.autograd.gradcheck(
        lambda q, k, v: blocked(q, k, v, causal=True, mask_k=16, block_size_q=8, sliding_window=4, sink=3),
        inputs,
        fast_mode=True,
    )


def test_gradients_in_float32_are_those_of_the_reference():
    inputs = tuple(t.requires_grad_() for t in random_qkv((1, 2, 1, 100, 150, 32)))
    grads = [torch.autograd.grad(f(*inputs, causal=True, **SMALL).square().sum(), inputs) for f in (blocked, reference)]
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"mask_k": 0}, "mask_k is 0; it must be at least 1"),
        ({"block_size_q": 24}, "block_size_q is 24; choose one of"),
        ({"block_size_k": 3}, "block_size_k is 3; choose one of 1, 2, 4, 8, 16"),
        ({"block_size_k_group": 3}, "block_size_k_group is 3"),
        ({"sliding_window": -1}, "sliding_window is -1"),
        ({"sink": -1}, "sink is -1"),
        ({"representative": "last"}, "representative is 'last'; choose one of first, center, random"),
        ({"query_stride": 5}, "query_stride is 5"),
        ({"query_offset": 2}, "query_offset is 2; choose one of 0, 1"),
        ({"dense_queries": -1}, "dense_queries is -1"),
        ({"mask_refresh": 0}, "mask_refresh is 0"),
        ({"scale": -1.0}, "must be positive"),
        ({"causal": False}, "only causal"),
        ({"mask": 5}, "no parameter 'mask'"),
    ],
)
def test_bad_parameters(params, message):
    q, k, v = random_qkv((1, 1, 1, 8, 8, 32))
    with pytest.raises(ValueError, match=message):
        attention("hip", q, k, v, **{"causal": True} | params)


def test_a_budget_that_is_no_multiple_is_rounded_up():
    q, k, v = random_qkv((1, 1, 1, 100, 100, 32))
    with pytest.warns(UserWarning, match="mask_k=13 is rounded up to 16"):
        out = blocked(q, k, v, causal=True, **SMALL | {"mask_k": 13, "block_size_k": 8})
    assert torch.equal(out, blocked(q, k, v, causal=True, **SMALL | {"mask_k": 16, "block_size_k": 8}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_memory_is_linear(dtype):
    q, k, v = random_qkv((1, 1, 1, 4096, 4096, 32), dtype)
    with LargestTensor() as seen:
        blocked(q, k, v, causal=True, mask_k=64, block_size_q=128, sliding_window=32)
    assert seen.elements < 4096 * 4096 // 2


def test_non_contiguous_inputs_and_the_same_bits_twice():
    q, k, v = (t.transpose(1, 2).contiguous().transpose(1, 2) for t in random_qkv((2, 4, 2, 97, 230, 64)))
    out = blocked(q, k, v, causal=True, **SMALL)
    assert torch.equal(out, blocked(q.contiguous(), k.contiguous(), v.contiguous(), causal=True, **SMALL))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3 - min(threads, 2))
        assert torch.equal(out, blocked(q, k, v, causal=True, **SMALL))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_equal_scores_still_leave_a_full_budget_of_distinct_units(dtype):
    q, k = torch.ones(1, 1, 200, 32, dtype=dtype), torch.ones(1, 1, 300, 32, dtype=dtype)
    selection = select(q, k, causal=True, **SMALL)
    starts = selection.starts[0, 0, -1]
    assert len(starts) == 16
    assert (starts.diff() >= 2).all()
    assert 0 <= starts[0] < starts[-1] < 300 - SMALL["sliding_window"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_nan_stays_visible_and_in_its_row(dtype):
    q, k, v = random_qkv((1, 2, 1, 200, 200, 32), dtype)
    q[0, 1, 150, 3] = torch.nan
    rows = blocked(q, k, v, causal=True, **SMALL).isnan().any(-1).nonzero().tolist()
    assert rows == [[0, 1, 150]]


def test_select_then_attend_is_blocked():
    q, k, v = random_qkv((1, 2, 1, 100, 200, 32))
    selection = select(q, k, causal=True, **SMALL)
    assert torch.equal(attend(q, k, v, selection, causal=True), blocked(q, k, v, causal=True, **SMALL))


def test_a_decoder_that_searches_every_step_is_the_operator():
    q, k, v = random_qkv((2, 4, 2, 6, 300, 32))
    decoder = HipDecoder(**SMALL, mask_refresh=1)
    for step in range(6):
        length = 295 + step
        arguments = q[:, :, step : step + 1], k[:, :, :length], v[:, :, :length]
        assert torch.equal(decoder.step(*arguments), blocked(*arguments, causal=True, **SMALL))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_decoder_keeps_its_keys_until_the_refresh(dtype):
    q, k, v = random_qkv((1, 4, 2, 9, 300, 32), dtype)
    decoder, kept = HipDecoder(**SMALL, mask_refresh=4), None
    for step in range(9):
        length = 292 + step
        query, keys, values = q[:, :, step : step + 1], k[:, :, :length], v[:, :, :length]
        if step % 4 == 0:
            kept = select(query, keys, causal=True, **SMALL).mask(torch.tensor([0]))
            window_start = length - SMALL["sliding_window"]
        else:  # what was chosen before the window began, and the window of today
            now = kept.new_zeros(*kept.shape[:3], length)
            now[..., :window_start] = kept[..., :window_start]
            now[..., length - SMALL["sliding_window"] :] = True
            kept = now
        out = decoder.step(query, keys, values)
        assert_as_accurate_as_eager(out, masked_attention, query, keys, values, mask=kept)


def test_a_decoder_of_a_short_cache_sees_every_key():
    q, k, v = random_qkv((1, 2, 1, 20, 60, 32))
    decoder = HipDecoder(mask_k=64, sliding_window=8, sink=0)
    for step in range(20):
        arguments = q[:, :, step : step + 1], k[:, :, : 41 + step], v[:, :, : 41 + step]
        torch.testing.assert_close(decoder.step(*arguments), attention_of_torch(*arguments))


def test_a_decoder_refuses_to_lose_new_keys():
    with pytest.raises(ValueError, match="Lower mask_refresh or raise sliding_window"):
        HipDecoder(mask_refresh=8, sliding_window=4)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_decode_step_of_a_benchmark(dtype):
    q, k, v = random_qkv((1, 4, 2, 1, 300, 32), dtype)
    step = OPERATOR.decoder(q, k, v, **SMALL)
    for _ in range(3):
        assert_as_accurate_as_eager(step(), reference, q, k, v, causal=True, **SMALL)


@pytest.mark.parametrize("len_q", [2048, 1])
def test_cost_predicts_the_selection(len_q):
    q, k, _ = random_qkv((1, 2, 1, len_q, 4096, 32))
    selection = select(q, k, causal=True, mask_k=128)
    price = cost(Shape(1, 2, 1, len_q, 4096, 32, 32, causal=True), mask_k=128)
    assert price.attended == pytest.approx(selection.useful / (2 * len_q), rel=0.15)
    assert price.searched == pytest.approx(selection.searched / (2 * len_q), rel=0.15)


def test_cost_grows_by_l_log_l():
    def flops(length):
        return cost(Shape(1, 1, 1, length, length, 128, 128, causal=True)).flops

    assert 1.0 < math.log2(flops(1 << 17) / flops(1 << 14)) / 3 < 1.2


@pytest.mark.parametrize("keys", [64, 300, 1000, 4000])
def test_a_budget_is_met(keys):
    shape = Shape(1, 1, 1, 32768, 32768, 128, 128, causal=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        price = cost(shape, **at_budget(keys, shape))
    assert price.attended + price.searched == pytest.approx(keys, rel=0.05)
    assert OPERATOR.parameters.keys() >= at_budget(keys, shape).keys()
