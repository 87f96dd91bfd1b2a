"""Superlinear attention: search and spans against the dense equations, gradients, memory, coverage, cost."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pairs import pairs
from qkv import DTYPES, SHAPES, LargestTensor, assert_as_accurate_as_eager, random_qkv, threads

from attn.core.attention import attention
from attn.core.attention.contract import shape_of
from attn.core.attention.superlinear.comb import accumulated, comb
from attn.core.attention.superlinear.operator import OPERATOR as superlinear

VARIANTS = [
    {},
    {"sw_index": 0, "num_spans": 2},
    {"sw_index": 2, "preset": "upscaled", "forward_factor": 1.0},
    {"sw_index": 1, "num_spans": 8, "inv_search_power_int": 3, "accumulate": "ema:0.8", "gate_scale": 0.2},
]


@pytest.mark.parametrize(("shape", "dtype", "params"), pairs(SHAPES, DTYPES, VARIANTS), ids=str)
def test_blocked_is_as_accurate_as_the_equations(shape, dtype, params):
    q, k, v = random_qkv(shape, dtype)
    out = attention("superlinear", q, k, v, causal=True, **params)
    assert_as_accurate_as_eager(out, superlinear.reference, q, k, v, **params)


@settings(max_examples=40, deadline=None)
@given(
    len_k=st.integers(1, 150), missing=st.integers(0, 149), heads=st.sampled_from([(1, 1), (4, 2), (3, 1)]),
    dim=st.sampled_from([32, 80]), value_dim=st.sampled_from([16, 48]), sw_index=st.integers(0, 4),
    num_spans=st.integers(1, 5), forward_factor=st.sampled_from([0.0, 0.5, 2.0]), seed=st.integers(0, 99),
)  # fmt: skip
def test_float64_equals_the_equations(len_k, missing, heads, dim, value_dim, sw_index, num_spans, forward_factor, seed):
    len_q = max(1, len_k - missing)
    q, k, _ = random_qkv((2, *heads, len_q, len_k, dim), torch.float64, seed=seed)
    v = random_qkv((2, *heads, len_q, len_k, value_dim), torch.float64, seed=seed + 1)[2]
    params = {"sw_index": sw_index, "num_spans": num_spans, "forward_factor": forward_factor, "scale": 0.3}
    truth = superlinear.reference(q, k, v, **params)
    out = superlinear.blocked(q, k, v, **params)
    assert (out - truth).abs().max() <= 1e-12 * truth.abs().max()
    assert_as_accurate_as_eager(
        superlinear.blocked(q.float(), k.float(), v.float(), **params), superlinear.reference, q.float(), k.float(),
        v.float(), **params,
    )  # fmt: skip


def test_a_separate_search_query_and_non_contiguous_inputs():
    q, k, v = (t.transpose(1, 2).contiguous().transpose(1, 2) for t in random_qkv((1, 4, 2, 130, 130, 32)))
    q_search = 0.3 * q.flip(1)
    out = superlinear.blocked(q, k, v, q_search=q_search, sw_index=1)
    truth = superlinear.reference(q.double(), k.double(), v.double(), q_search=q_search.double(), sw_index=1)
    torch.testing.assert_close(out.double(), truth, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(out, superlinear.blocked(q, k, v, sw_index=1), atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_equal_scores_keep_the_farthest_anchors(dtype):
    q = k = v = torch.ones(1, 1, 60, 32, dtype=dtype)
    spans = superlinear.select(q, k, sw_index=1, num_spans=2)
    assert spans.anchors[0, 0, -1].tolist() == [59 + 1 - 49, 59 + 1 - 36]
    torch.testing.assert_close(superlinear.blocked(q, k, v, sw_index=1), v)


@pytest.mark.parametrize(
    ("inverse", "power", "span_power", "backward"), [(2, None, 0.5, 2), (3, None, 0.67, 3), (2, 0.54, 0.5, 2)]
)
def test_every_earlier_key_is_in_some_candidate_span(inverse, power, span_power, backward):
    for c in (5, 80, 777):
        tables = comb(1, c + 1, 1, inverse, power, span_power, backward, 0.0)
        reached = torch.zeros(c + 1, dtype=torch.bool)
        for anchor in (c + 1 - tables.steps).tolist():
            reached[max(0, anchor - int(tables.backward[0])) : anchor + 1] = True
        below = max(0, c + 1 - tables.window)
        assert reached[:below].all()
        assert not reached[below:].any()


def test_span_lengths_are_exact_where_a_root_is():
    tables = comb(200, 200, 0, 2, None, 0.5, 2.0, 0.5)
    for t in (25, 100, 121):
        assert tables.backward[t - 1] == 2 * round(t**0.5)
        assert tables.forward[t - 1] == -(-round(t**0.5) // 2)


def test_spans_never_enter_the_window_and_counts_agree_with_the_mask():
    q, k, v = random_qkv((2, 4, 2, 90, 170, 32))
    spans = superlinear.select(q, k, sw_index=2, num_spans=4, forward_factor=3.0)
    here = torch.arange(80, 170)[:, None]
    assert (spans.stop <= (here + 1 - spans.window).clamp_min(0)).all()
    mask = spans.mask(torch.arange(90))
    assert int(mask.sum()) == spans.useful
    assert not mask.triu(81).any()
    assert spans.executed >= spans.useful
    cost = superlinear.cost(shape_of(q, k, v, causal=True), sw_index=2, num_spans=4, forward_factor=3.0)
    assert cost.searched * 2 * 4 * 90 == pytest.approx(spans.searched)
    assert cost.attended * 2 * 4 * 90 >= spans.useful


def test_accumulated_keys_follow_the_recursion():
    k = torch.randn(1, 2, 150, 8, dtype=torch.float64)
    carry, ours = torch.zeros(1, 2, 8, dtype=torch.float64), accumulated(k, "ema:0.9")
    for t in range(150):
        carry = 0.9 * carry + 0.1 * k[:, :, t]
        torch.testing.assert_close(ours[:, :, t], carry, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_gradients_are_those_of_the_equations(dtype):
    inputs = [t.requires_grad_() for t in random_qkv((2, 4, 2, 50, 77, 16), dtype)]
    q_search = (0.2 * torch.randn(2, 4, 50, 16, dtype=dtype)).requires_grad_()
    params = {"sw_index": 1, "num_spans": 2, "accumulate": "ema:0.5", "q_search": q_search}
    grad = torch.randn(2, 4, 50, 16, dtype=dtype)
    with threads(2):  # the second thread has a gradient mode of its own
        ours = torch.autograd.grad(superlinear.blocked(*inputs, **params), [*inputs, q_search], grad)
    theirs = torch.autograd.grad(superlinear.reference(*inputs, **params), [*inputs, q_search], grad)
    bound = 1e-11 if dtype == torch.float64 else 1e-4
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() <= bound * b.abs().max()
    assert ours[3].abs().max() > 0  # gates make the routing trainable


def test_gradcheck():
    q, k, v = (t.requires_grad_() for t in random_qkv((1, 2, 1, 6, 14, 3), torch.float64))
    assert torch.autograd.gradcheck(
        lambda *x: superlinear.blocked(*x, sw_index=1, num_spans=2, gate_scale=0.3), (q, k, v)
    )


def test_memory_is_linear():
    length, dim = 16384, 32
    q, k, v = random_qkv((1, 1, 1, length, length, dim))
    with LargestTensor() as largest:
        superlinear.blocked(q, k, v)
    assert largest.elements <= 4 * length * dim  # num_spans + 1 rows of partial output per query


def test_same_bits_for_any_number_of_threads():
    inputs = [t.requires_grad_() for t in random_qkv((1, 2, 1, 700, 700, 64))]
    results = []
    for count in (1, 2, 3):
        with threads(count):
            out = superlinear.blocked(*inputs)
            results.append((out, *torch.autograd.grad(out.square().sum(), inputs)))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_float32_gradients_are_as_accurate_as_the_equations():
    inputs = random_qkv((1, 2, 1, 300, 400, 32))
    grad = torch.randn(1, 2, 300, 32, generator=torch.Generator().manual_seed(1))
    params = {"sw_index": 2, "gate_scale": 0.1}

    def gradients(run, dtype):
        leaves = [t.to(dtype).requires_grad_() for t in inputs]
        return torch.autograd.grad(run(*leaves, **params), leaves, grad.to(dtype))

    truth = gradients(superlinear.reference, torch.float64)
    ours, eager = (gradients(run, torch.float32) for run in (superlinear.blocked, superlinear.reference))
    for t, a, b in zip(truth, ours, eager, strict=True):
        assert (a.double() - t).abs().max() <= 2 * (b.double() - t).abs().max() + 1e-5


def test_inference_mode_on_two_threads():
    q, k, v = random_qkv((1, 1, 1, 303, 303, 32))
    with threads(2), torch.inference_mode():
        out = superlinear.blocked(q, k, v)
    assert torch.equal(out, superlinear.blocked(q, k, v))
    leaf = q.requires_grad_()
    superlinear.reference(leaf, k, v).sum().backward()  # with tables made in inference mode and kept
    assert leaf.grad.isfinite().all()


def test_no_queries():
    q, k, v = random_qkv((1, 2, 1, 0, 30, 32))
    assert superlinear.blocked(q, k, v).shape == (1, 2, 0, 32)


def test_huge_logits_stay_finite():
    q, k, v = random_qkv((1, 1, 1, 300, 300, 32))
    assert_as_accurate_as_eager(superlinear.blocked(300 * q, k, v), superlinear.reference, 300 * q, k, v)


@pytest.mark.parametrize("keys", [500, 2000])
def test_at_budget_visits_that_many_keys(keys):
    q, k, v = random_qkv((1, 1, 1, 1, 8192, 32))
    shape = shape_of(q, k, v, causal=True)._replace(len_q=8192)
    cost = superlinear.cost(shape, **superlinear.at_budget(keys, shape))
    assert cost.searched + cost.attended == pytest.approx(keys, rel=0.05)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"num_spans": 0}, "at least one span"),
        ({"sw_index": -1}, "use 0 for no window"),
        ({"inv_search_power_int": 7}, "use 2 to 6"),
        ({"search_power": 1.5}, "between 0 and 1"),
        ({"search_power": 0.5, "inv_search_power_int": 3}, "exclude each other"),
        ({"search_power": 0.5, "preset": "upscaled"}, "give one of them"),
        ({"preset": "best"}, "default or upscaled"),
        ({"span_power": 0.0}, "span_power is 0"),
        ({"backward_factor": 0.0}, "must be positive"),
        ({"forward_factor": -1.0}, "must not be negative"),
        ({"accumulate": "ema:1.5"}, "such as 'ema:0.9'"),
        ({"accumulate": "mean"}, "such as 'ema:0.9'"),
        ({"q_search": torch.zeros(1, 1, 5, 32)}, "must look like q"),
        ({"causal": False}, "only causal"),
        ({"spans": 3}, "no parameter 'spans'"),
    ],
    ids=str,
)
def test_refuses(params, message):
    q, k, v = random_qkv((1, 1, 1, 10, 10, 32))
    with pytest.raises(ValueError, match=message):
        attention("superlinear", q, k, v, **{"causal": True, **params})


def test_a_power_whose_inverse_is_whole_takes_the_exact_comb():
    assert comb(1, 1000, 1, 2, 1 / 3, 0.5, 2.0, 0.0).steps.tolist() == [8, 27, 64, 125, 216, 343, 512, 729, 1000]


@pytest.mark.parametrize("backend", ["reference", "torch", "cpu"])
def test_routing_without_gradient_is_a_constant(backend):
    """The result stays, q_search gets nothing, and k only what the spans give: gates as numbers."""
    dtype = torch.float32 if backend == "cpu" else torch.float64
    q, k, v = (x.requires_grad_() for x in random_qkv((1, 2, 2, 90, 90, 16), dtype))
    q_search = torch.randn(1, 2, 90, 16, dtype=dtype, requires_grad=True)
    grads = {}
    for learns in (True, False):
        params = {"sw_index": 2, "q_search": q_search, "routing_gradient": learns}
        out = attention("superlinear", q, k, v, causal=True, backend=backend, **params)
        grads[learns] = out, *torch.autograd.grad(out.square().sum(), (q, k, v, q_search), allow_unused=True)
    torch.testing.assert_close(grads[True][0], grads[False][0])
    assert grads[False][4] is None or not grads[False][4].any()
    assert grads[True][4].any()
    for learnt, frozen, same in zip(grads[True][1:4], grads[False][1:4], (True, False, True), strict=True):
        assert torch.allclose(learnt, frozen, atol=1e-5) == same
