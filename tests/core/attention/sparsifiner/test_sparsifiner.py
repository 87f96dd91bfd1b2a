"""Sparsifiner as an operator: the choice of keys and attention over them, against the dense equations."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pairs import pairs
from qkv import DTYPES, SHAPES, assert_as_accurate_as_eager, random_qkv

from attn.core.attention import attention
from attn.core.attention.contract import shape_of
from attn.core.attention.equations import masked_attention, repeat_kv
from attn.core.attention.sparsifiner.operator import OPERATOR
from attn.core.attention.sparsifiner.predictor import ConnectivityPredictor, Rules, random_predictor

attend, blocked, cost = OPERATOR.attend, OPERATOR.blocked, OPERATOR.cost
reference, select = OPERATOR.reference, OPERATOR.select
SQUARE = [(*shape[:3], shape[4], *shape[4:]) for shape in SHAPES]  # as many queries as keys
SQUARE += [(1, 2, 1, 300, 300, 96), (1, 1, 1, 40, 40, 128), (1, 2, 2, 20, 20, 256)]


def trained(num_tokens, head_dim, seed=0):
    """A predictor with weights of the size that training gives, so that predictions differ from query to query."""
    predictor = ConnectivityPredictor(num_tokens, head_dim)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in predictor.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return predictor


def undecided(q, k, predictor, rules, keep_ratio):
    """Queries whose choice hangs on rounding: bool [B, H, R], ties within 1e-5 at either of the two cuts."""
    reduced, pooled = predictor.reduced(q.double(), repeat_kv(k, q.shape[1]).double(), rules)
    coef = (reduced @ pooled).softmax(-1).sort(-1, descending=True).values
    approx = predictor(q.double(), repeat_kv(k, q.shape[1]).double(), rules, keep_ratio=keep_ratio).approx

    def tied(ordered, count):
        if count >= ordered.shape[-1]:
            return torch.zeros(ordered.shape[:-1], dtype=torch.bool)
        return ordered[..., count - 1] - ordered[..., count] <= 1e-5 * ordered[..., 0]

    budget = math.ceil(keep_ratio * k.shape[2])
    return tied(coef, rules.topk_coef) | tied(approx.sort(-1, descending=True).values, budget)


@pytest.mark.parametrize(("shape", "dtype", "class_token"), pairs(SQUARE, DTYPES, [True, False]), ids=str)
def test_blocked_chooses_and_attends_as_the_reference(shape, dtype, class_token):
    q, k, v = random_qkv(shape, dtype)
    predictor, rules = trained(shape[4], shape[5]), Rules(class_token=class_token)
    params = {"predictor": predictor, "class_token": class_token, "keep_ratio": 0.3}
    selection = select(q, k, **params)
    mask = selection.mask(torch.arange(shape[4]))
    dense = predictor(q, repeat_kv(k, q.shape[1]), rules, keep_ratio=0.3).mask
    wrong = (mask != dense).any(-1)[:, :, rules.first_row :] & ~undecided(q, k, predictor, rules, 0.3)
    assert not wrong.any()
    out = blocked(q, k, v, **params)
    assert torch.equal(out, attend(q, k, v, selection))
    assert_as_accurate_as_eager(out, lambda *qkv: masked_attention(*qkv, mask), q, k, v)


@pytest.mark.parametrize("shape", SQUARE, ids=str)
def test_blocked_in_float64_is_the_reference(shape):
    q, k, v = random_qkv(shape, torch.float64)
    for params in ({"predictor": trained(shape[4], shape[5])}, {"class_token": False}):
        out, truth = blocked(q, k, v, scale=0.2, **params), reference(q, k, v, scale=0.2, **params)
        assert out.shape == truth.shape
        assert not out.numel() or (out - truth).abs().max() <= 1e-12 * truth.abs().max()


@settings(deadline=None, max_examples=40)
@given(
    batch=st.integers(0, 2),
    kv_heads=st.integers(1, 2),
    group=st.integers(1, 3),
    tokens=st.integers(1, 90),
    dim=st.sampled_from([1, 8, 32]),
    value_dim=st.sampled_from([1, 8, 40]),
    keep_ratio=st.floats(0.01, 1),
    class_token=st.booleans(),
    seed=st.integers(0, 5),
)
def test_any_size(batch, kv_heads, group, tokens, dim, value_dim, keep_ratio, class_token, seed):
    q, k, _ = random_qkv((batch, kv_heads * group, kv_heads, tokens, tokens, dim), seed=seed)
    v = random_qkv((batch, kv_heads, kv_heads, tokens, tokens, value_dim), seed=seed + 1)[2]
    params = {"keep_ratio": keep_ratio, "class_token": class_token, "seed": seed, "reduce_n": 3}
    selection = select(q, k, **params)
    out = blocked(q, k, v, **params)
    assert out.shape == (batch, kv_heads * group, tokens, value_dim)
    mask = selection.mask(torch.arange(tokens))
    assert selection.useful == mask.sum()
    if out.numel():
        assert (out - masked_attention(q, k, v, mask)).abs().max() < 1e-5
    rows = torch.arange(tokens - 1, -1, -2)
    assert torch.equal(selection.mask(rows), mask[:, :, rows])


def test_every_query_has_its_budget_and_the_class_token_all():
    q, k, _ = random_qkv((2, 6, 6, 197, 197, 64))
    mask = select(q, k, keep_ratio=0.25).mask(torch.arange(197))
    assert (mask[:, :, 1:].sum(-1) == 50).all()
    assert mask[:, :, 0].all()
    assert mask[0, 0].double().mean().item() == pytest.approx(0.2576, abs=5e-5)  # the specification's worked example


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_keeping_all_keys_is_attention(dtype):
    q, k, v = random_qkv((1, 4, 2, 61, 61, 32), dtype)
    truth = torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    assert torch.allclose(blocked(q, k, v, keep_ratio=1.0), truth, atol=2e-6)


def test_among_equals_the_first_keys_are_chosen():
    q, k, _ = random_qkv((1, 2, 2, 50, 50, 16))
    predictor = ConnectivityPredictor(50, 16, reduce_n=5)  # 10 basis vectors; a query of zeros likes all the same
    with torch.no_grad():
        predictor.proj_back_n.zero_()
        predictor.proj_back_n[30, :8] = 0.5
        predictor.proj_back_n[40, 9] = 0.5  # not among the first eight
    mask = select(torch.zeros_like(q), k, keep_ratio=0.1, predictor=predictor).mask(torch.arange(1, 50))
    assert mask[0, 1, 7].nonzero().flatten().tolist() == [0, 1, 2, 3, 30]
    for dtype in (torch.float32, torch.float64):
        other = select(torch.zeros_like(q, dtype=dtype), k.to(dtype), keep_ratio=0.1, predictor=predictor)
        assert torch.equal(other.mask(torch.arange(1, 50)), mask)


def test_layout_does_not_matter():
    q, k, v = random_qkv((1, 4, 2, 45, 45, 32))
    strided = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    assert not strided[0].is_contiguous()
    assert torch.equal(blocked(*strided), blocked(q, k, v))


def test_same_inputs_same_bits_on_any_number_of_threads():
    q, k, v = random_qkv((1, 2, 2, 700, 700, 32))
    before, outs = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            outs.append(blocked(q, k, v))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(outs[0], outs[1])
    assert torch.equal(outs[1], outs[2])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_query_that_is_not_finite_stays_alone(value):
    q, k, v = random_qkv((1, 1, 1, 40, 40, 32))
    clean = blocked(q, k, v)
    q[0, 0, 7, 0] = value
    out = blocked(q, k, v)
    assert out[0, 0, 7].isnan().all()
    others = torch.arange(40) != 7
    assert torch.equal(out[:, :, others], clean[:, :, others])


def test_a_key_that_is_not_a_number_is_not_passed_over():
    q, k, v = random_qkv((1, 1, 1, 40, 40, 32))
    k[0, 0, 3, 0] = torch.nan
    assert reference(q, k, v).isnan().all()  # no order is left, so every query takes the first keys
    assert blocked(q, k, v).isnan().all()


def test_large_scores_do_not_overflow():
    q, k, v = random_qkv((1, 1, 1, 40, 40, 32))
    params = {"predictor": trained(40, 32), "scale": 1e4}
    assert (blocked(q, k, v, **params) - reference(q, k, v, **params)).abs().max() < 1e-3


def test_gradients():
    q, k, v = (x.requires_grad_() for x in random_qkv((1, 2, 1, 9, 9, 4), torch.float64))
    predictor = trained(9, 4).requires_grad_(False)
    params = {"predictor": predictor, "keep_ratio": 0.4}
    assert torch.autograd.gradcheck(lambda *qkv: blocked(*qkv, **params), (q, k, v))
    grads = [torch.autograd.grad(run(q, k, v, **params).pow(2).sum(), (q, k, v)) for run in (blocked, reference)]
    for ours, truth in zip(*grads, strict=True):
        assert torch.allclose(ours, truth)


def memory(kind):
    """VmHWM (peak) or VmRSS of this process in bytes; Linux."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{kind}:")[2].split()[0]) * 1024


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak can be set back on Linux only")
def test_memory_of_4096_tokens_and_8_heads():
    q, k, v = random_qkv((1, 8, 8, 4096, 4096, 16))
    warm = random_qkv((1, 1, 1, 4096, 4096, 16))
    blocked(*warm, keep_ratio=0.05)  # makes the predictor and compiles
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is used now
    before = memory("VmRSS")
    blocked(q, k, v, keep_ratio=0.05)
    assert memory("VmHWM") - before < 64e6  # the map of one head alone would take 67 MB, of all 537


def test_cost_counts_what_select_does():
    for tokens, class_token in ((197, True), (64, False), (1, True)):
        q, k, v = random_qkv((2, 4, 2, tokens, tokens, 32))
        selection = select(q, k, keep_ratio=0.25, class_token=class_token)
        predicted = cost(shape_of(q, k, v, causal=False), keep_ratio=0.25, class_token=class_token)
        queries = 2 * 4 * tokens
        assert selection.useful / queries == pytest.approx(predicted.attended)
        assert selection.executed == selection.useful
        assert selection.searched / queries == pytest.approx(predicted.searched, rel=1.01 / tokens)
        assert predicted.flops > 4 * selection.useful * 32


@pytest.mark.parametrize("keys", [100, 400, 2000])
def test_budget_is_met(keys):
    q, k, v = random_qkv((1, 1, 1, 2048, 2048, 8))
    shape = shape_of(q, k, v, causal=False)
    found = cost(shape, **OPERATOR.at_budget(keys, shape))
    assert found.searched + found.attended == pytest.approx(keys, rel=0.05)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"keep_ratio": 0.0}, "keep_ratio is 0.0"),
        ({"keep_ratio": 1.5}, "above 0 and at most 1"),
        ({"keep_ratio": math.nan}, "keep_ratio is nan"),
        ({"topk_coef": 0}, "topk_coef is 0"),
        ({"basis_threshold": -1.0}, "must not be negative"),
        ({"scale_rule": "heads"}, "'code' or 'dim'"),
        ({"reduce_n": 0}, "must be positive"),
        ({"reduce_c": -2}, "must be positive"),
        ({"predictor": ConnectivityPredictor(20, 8)}, "made for 20 tokens of head_dim 8, k is"),
        ({"predictor": ConnectivityPredictor(30, 4)}, "made for 30 tokens of head_dim 4"),
        ({"keep": 0.5}, "no parameter 'keep'. Did you mean"),
    ],
)
@pytest.mark.parametrize("backend", ["reference", "blocked"])
def test_bad_parameters(params, message, backend):
    q, k, v = random_qkv((1, 1, 1, 30, 30, 8))
    with pytest.raises(ValueError, match=message):
        attention("sparsifiner", q, k, v, causal=False, backend=backend, **params)


def test_what_the_operator_cannot_do():
    q, k, v = random_qkv((1, 1, 1, 30, 30, 8))
    with pytest.raises(ValueError, match="not causal"):
        attention("sparsifiner", q, k, v, causal=True)
    with pytest.raises(ValueError, match="as many queries as keys"):
        attention("sparsifiner", q[:, :, 1:], k, v, causal=False)
    with pytest.raises(ValueError, match=r"takes 21\.3 GB: raise reduce_n to 64 or more"):
        random_predictor(131072, 64, 6, 2, 0)


def test_the_random_predictor_depends_on_its_seed_alone():
    first = random_predictor(60, 8, 6, 2, seed=1).proj_n.clone()
    random_predictor.cache_clear()
    torch.rand(5)
    state = torch.get_rng_state()
    assert torch.equal(random_predictor(60, 8, 6, 2, seed=1).proj_n, first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(random_predictor(60, 8, 6, 2, seed=2).proj_n, first)


def test_scale_rules_differ_only_in_sharpness():
    q, k, _ = random_qkv((1, 4, 4, 30, 30, 32))
    predictor = trained(30, 32)
    code, dim = (predictor.reduced(q, k, Rules(scale_rule=rule))[0] for rule in ("code", "dim"))
    assert torch.allclose(code / 2, dim)  # 4 heads, 16 reduced channels
