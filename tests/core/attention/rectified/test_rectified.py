"""Rectified SpaAttn: selection and rectification against the dense equations, text, order, gradients, memory."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from qkv import DTYPES, LargestTensor, assert_as_accurate_as_eager, random_qkv, threads

from attn.core.attention import attention
from attn.core.attention.contract import shape_of
from attn.core.attention.equations import masked_attention
from attn.core.attention.rectified.blocks import critical_blocks, pool
from attn.core.attention.rectified.operator import OPERATOR as rectified
from attn.core.attention.rectified.operator import rectify, select
from attn.core.attention.rectified.order import neighbour_blocks, token_order

# batch, heads, kv heads, tokens, D, parameters
CASES = [
    (1, 1, 1, 256, 32, {"block_size": 32}),
    (2, 4, 2, 97, 64, {"block_size": 16, "gapr": "off", "tau_p": 0.0}),
    (1, 6, 1, 333, 80, {"block_size": 64, "drop_rate": 0.5, "first_frame_blocks": 2}),
    (1, 2, 2, 4 * 6 * 8, 64, {"block_size": 32, "video": (4, 6, 8), "tau_p": 0.1, "gapr": "off"}),
    (1, 2, 1, 4 * 6 * 8 + 50, 32, {"block_size": 32, "video": (4, 6, 8), "order": "tile:2x2x4", "text_len": 50}),
    (1, 2, 1, 178, 32, {"block_size": 32, "text_len": 50, "text_valid": 37, "gapr": "off"}),
    (1, 2, 1, 178, 32, {"block_size": 32, "text_len": 50, "text_valid": 0}),
    (1, 1, 1, 1, 32, {}),
    (0, 2, 1, 50, 32, {}),
]


def smooth(batch, heads, kv_heads, tokens, dim, dtype=torch.float32, *, seed=0):
    """Random walks of unit step: neighbouring tokens are alike, so that pools mean something."""
    q, k, v = random_qkv((batch, heads, kv_heads, tokens, tokens, dim), torch.float64, seed=seed)
    return tuple((x.cumsum(2) / (1 + torch.arange(tokens)[:, None]) ** 0.5).to(dtype) for x in (q, k, v))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_blocked_is_as_accurate_as_the_equations(case, dtype):
    *sizes, params = case
    q, k, v = smooth(*sizes, dtype)
    out = attention("rectified", q, k, v, causal=False, **params)
    assert_as_accurate_as_eager(out, rectified.reference, q, k, v, **params)


@settings(max_examples=30, deadline=None)
@given(
    tokens=st.integers(1, 200), block_size=st.sampled_from([7, 16, 33, 128]),
    heads=st.sampled_from([(1, 1), (4, 2), (3, 1)]), drop_rate=st.floats(0, 0.99), tau_p=st.floats(0, 1),
    gapr=st.sampled_from(["on", "off", "all"]), text=st.sampled_from([(0, 0), (20, 20), (20, 13)]),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_float64_equals_the_equations(tokens, block_size, heads, drop_rate, tau_p, gapr, text, seed):
    if text[0]:
        tokens = -(-tokens // block_size) * block_size + text[0]
    q, k, _ = smooth(2, *heads, tokens, 32, torch.float64, seed=seed)
    v = smooth(2, *heads, tokens, 48, torch.float64, seed=seed + 1)[2]
    params = {
        "block_size": block_size, "drop_rate": drop_rate, "tau_p": tau_p, "gapr": gapr, "text_len": text[0],
        "text_valid": text[1], "scale": 0.3,
    }  # fmt: skip
    truth = rectified.reference(q, k, v, **params)
    assert (rectified.blocked(q, k, v, **params) - truth).abs().max() <= 1e-12 * truth.abs().max()


@settings(max_examples=20, deadline=None)
@given(tokens=st.integers(1, 150), seed=st.integers(0, 99))
def test_dropping_nothing_is_dense_attention(tokens, seed):
    q, k, v = smooth(1, 2, 1, tokens, 32, torch.float64, seed=seed)
    out = rectified.blocked(q, k, v, block_size=16, drop_rate=0.0)
    torch.testing.assert_close(out, masked_attention(q, k, v, None), rtol=1e-10, atol=1e-12)


def test_constant_blocks_are_restored_exactly():
    """Where nothing varies inside a block, a pool says all: two kept blocks and pools are dense attention."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(1, 2, 8, 32, generator=generator, dtype=torch.float64).repeat_interleave(16, 2) for _ in "qkv"
    )
    result = rectify(q, k, v, block_size=16, drop_rate=0.99, tau_p=0.0, gapr="off")
    assert result.blocks.keep.sum(-1).max() <= 2
    torch.testing.assert_close(result.out, masked_attention(q, k, v, None), rtol=1e-10, atol=1e-10)
    assert (result.sparse - result.out).abs().max() > 1e-2


def test_non_contiguous_inputs():
    q, k, v = smooth(1, 4, 2, 130, 32)
    strided = (t.transpose(1, 2).contiguous().transpose(1, 2) for t in (q, k, v))
    torch.testing.assert_close(rectified.blocked(*strided, block_size=32), rectified.blocked(q, k, v, block_size=32))


@pytest.mark.parametrize("order", ["gilbert", "raster", "tile:2x2x4"])
def test_order_is_a_permutation_and_neighbours_touch(order):
    video, size = (3, 5, 6), 8
    tokens = token_order(order, video)
    assert sorted(tokens.tolist()) == list(range(90))
    touch = neighbour_blocks(order, video, size)
    place = torch.stack([tokens // 30, tokens // 6 % 5, tokens % 6], 1)
    near = (place[:, None] - place).abs().amax(-1) <= 1
    block = torch.arange(90) // size
    for i, j in itertools.product(range(12), repeat=2):
        assert touch[i, j] == near[block == i][:, block == j].any()


def test_the_order_of_tokens_is_undone():
    """Attention does not depend on the order of the keys: with every block kept, the order must not show."""
    q, k, v = smooth(1, 2, 1, 90, 32, torch.float64)
    for order in ("gilbert", "tile:2x2x4"):
        out = rectified.blocked(q, k, v, block_size=16, drop_rate=0.0, order=order, video=(3, 5, 6))
        torch.testing.assert_close(out, masked_attention(q, k, v, None), rtol=1e-10, atol=1e-12)


def test_pools_of_a_short_last_block_divide_by_its_tokens():
    x = torch.randn(1, 1, 70 * 4 + 3, 5, dtype=torch.float64)
    mean, spread = pool(x, 4)
    for i, part in enumerate(x[0, 0].split(4)):
        torch.testing.assert_close(mean[0, 0, i], part.mean(0))
        torch.testing.assert_close(spread[0, 0, i], (part - part.mean(0)).abs().mean(0))


def test_critical_blocks_reach_the_mass_and_the_number():
    prob = torch.tensor([[0.1, 0.45, 0.2, 0.25]])
    assert critical_blocks(prob, 0.5, 1).tolist() == [[False, True, False, True]]
    assert critical_blocks(prob, 0.0, 1).tolist() == [[False, True, False, False]]
    assert critical_blocks(prob, 0.0, 3).tolist() == [[False, True, True, True]]
    assert critical_blocks(prob, 1.0, 1).all()


def test_a_pooled_key_weighs_as_much_as_its_tokens():
    q, _, v = smooth(1, 1, 1, 5 * 16 + 20, 32)
    blocks = rectify(q, torch.zeros_like(q), v, block_size=16, text_len=20, text_valid=10, tau_p=0.0).blocks
    truth = torch.tensor([16.0] * 5 + [10.0]) / 90
    torch.testing.assert_close(blocks.prob, truth.expand(1, 1, 5, 6))
    assert blocks.keep[..., 5:].all()
    assert blocks.keep.shape[-1] == 6  # ten valid text tokens are one block


def test_blocks_of_the_first_frame_see_each_other():
    q, k, v = smooth(1, 1, 1, 10 * 16, 32)
    params = {"block_size": 16, "tau_p": 0.0, "drop_rate": 0.95}
    few, more = (rectify(q, k, v, first_frame_blocks=n, **params).blocks.keep[0, 0] for n in (0, 3))
    assert more[:3, :3].all()
    assert not few[:3, :3].all()
    assert torch.equal(few[3:], more[3:])
    assert torch.equal(few[:, 3:], more[:, 3:])


def test_counts_agree_with_the_mask():
    video, text = (4, 6, 8), (50, 37)
    q, k, v = smooth(2, 4, 2, 192 + 50, 32)
    params = {"block_size": 32, "video": video, "text_len": text[0], "text_valid": text[1], "tau_p": 0.1}
    choice = select(q, k, **params)
    mask = choice.mask(torch.arange(242))
    assert int(mask.sum()) == choice.useful
    assert not mask[..., 192 + 37 :].any()
    assert mask[..., 192 : 192 + 37].all()
    assert mask[:, :, 192:, : 192 + 37].all()
    assert choice.executed == choice.useful
    assert choice.searched == 2 * 4 * 6 * (3 * 6 + 37)
    sparse = masked_attention(q, k, v, mask)
    torch.testing.assert_close(rectify(q, k, v, **params).sparse, sparse, rtol=1e-4, atol=1e-5)


def test_all_is_plain_block_sparse_attention():
    q, k, v = smooth(1, 2, 2, 256, 32)
    result = rectify(q, k, v, block_size=32, gapr="all")
    torch.testing.assert_close(result.out, result.sparse)
    assert (rectify(q, k, v, block_size=32, gapr="off").out - result.out).abs().max() > 1e-3


@pytest.mark.parametrize("inputs", ["smooth", "gaussian", "needles"])
def test_errors_of_plain_rectified_and_ungated_keep_the_order_of_the_specification(inputs):
    """Pitfall 10: rectifying helps on smooth input; the gain test forgoes Gaussian input and protects needles."""
    totals = torch.zeros(3)
    for seed in range(4):
        q, k, v = random_qkv((1, 1, 1, 1024, 1024, 64), seed=seed)
        if inputs == "smooth":
            q, k, v = (torch.nn.functional.normalize(x.cumsum(2), dim=-1) * 8 for x in (q, k, v))
        if inputs == "needles":
            place = torch.arange(100, 1000, 225)  # four keys; a query is aligned with one of them
            unit = torch.nn.functional.normalize(k[0, 0, place[torch.arange(1024) % 4]], dim=-1)
            q[0, 0] = unit * 15 * 8 / k[0, 0, place].norm(dim=-1).mean() + 0.1 * q[0, 0]
        dense = masked_attention(q, k, v, None)
        for i, gapr in enumerate(("all", "on", "off")):
            out = rectified.blocked(q, k, v, block_size=64, drop_rate=0.8, tau_p=0.0, gapr=gapr)
            totals[i] += (out - dense).norm() / dense.norm() / 4
    plain, gated, ungated = totals.tolist()
    assert gated <= plain * 1.001
    if inputs == "smooth":
        assert gated < 0.95 * plain
    elif inputs == "gaussian":
        assert gated > 0.95 * plain
        assert ungated < 0.7 * plain
    else:
        assert gated > 0.95 * plain
        assert ungated > gated


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_gradients_are_those_of_the_equations(dtype):
    inputs = [t.requires_grad_() for t in smooth(1, 4, 2, 8 * 16 + 20, 16, dtype)]
    params = {"block_size": 16, "gapr": "off", "text_len": 20, "text_valid": 13, "tau_p": 0.1}
    grad = torch.randn(1, 4, 148, 16, dtype=dtype)
    with threads(2):
        ours = torch.autograd.grad(rectified.blocked(*inputs, **params), inputs, grad)
    theirs = torch.autograd.grad(rectified.reference(*inputs, **params), inputs, grad)
    bound = 1e-11 if dtype == torch.float64 else 1e-4
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() <= bound * b.abs().max()


def test_gradcheck():
    inputs = [t.requires_grad_() for t in smooth(1, 1, 1, 10, 3, torch.float64)]
    assert torch.autograd.gradcheck(lambda *x: rectified.blocked(*x, block_size=4, tau_p=0.0, gapr="off"), inputs)


def test_memory_is_linear():
    length, dim = 8192, 32
    q, k, v = random_qkv((1, 1, 1, length, length, dim))
    with LargestTensor() as largest:
        rectified.blocked(q, k, v, tau_p=0.0, drop_rate=0.95)
    assert largest.elements <= length * dim


def test_same_bits_for_any_number_of_threads():
    q, k, v = smooth(1, 2, 1, 900, 64)
    results = []
    for count in (1, 2, 3):
        with threads(count):
            results.append(rectified.blocked(q, k, v))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_cost_and_budget_are_what_drop_rate_does():
    q, k, v = smooth(1, 1, 1, 128 * 40, 32)
    shape = shape_of(q, k, v, causal=False)
    params = rectified.at_budget(1024, shape)
    cost = rectified.cost(shape, **params)
    assert cost.searched + cost.attended == pytest.approx(1024, abs=128)
    choice = select(q, k, neighbours=torch.zeros(40, 40, dtype=torch.bool), **params)
    assert choice.useful == cost.attended * 128 * 40
    assert choice.searched == pytest.approx(cost.searched * 128 * 40)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"drop_rate": 1.0}, "blocks to drop is in"),
        ({"tau_p": 1.5}, "mass to keep"),
        ({"block_size": 0}, "use 128"),
        ({"first_frame_blocks": -1}, "must not be negative"),
        ({"gapr": "maybe"}, "on, off or all"),
        ({"text_len": 300}, "must leave video tokens"),
        ({"text_len": 44, "text_valid": 45}, "between 0 and text_len"),
        ({"text_len": 20}, "pad them"),
        ({"video": (2, 3, 4)}, "has 24 tokens"),
        ({"video": (3, 10, 10), "order": "hilbert"}, "gilbert, raster or tile"),
        ({"video": (3, 10, 10), "order": "tile:4x4"}, "gilbert, raster or tile"),
        ({"neighbours": torch.ones(3, 3)}, "neighbours must be bool"),
        ({"causal": True}, "not causal"),
        ({"keep": 0.2}, "no parameter 'keep'"),
    ],
    ids=str,
)
def test_refuses(params, message):
    q, k, v = smooth(1, 1, 1, 300, 32)
    with pytest.raises(ValueError, match=message):
        attention("rectified", q, k, v, **{"causal": False, **params})


def test_refuses_no_tokens():
    q, k, v = random_qkv((1, 1, 1, 0, 0, 32))
    with pytest.raises(ValueError, match="no tokens"):
        attention("rectified", q, k, v, causal=False)
