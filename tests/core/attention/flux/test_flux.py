"""Flux attention: the sparse modes, the router and what it decides, the mixture it is trained with."""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pairs import pairs
from qkv import DTYPES, SHAPES, LargestTensor, assert_as_accurate_as_eager, random_qkv

from attn.core.attention import attention
from attn.core.attention.contract import Shape, shape_of
from attn.core.attention.equations import causal_mask, masked_attention
from attn.core.attention.flux.operator import OPERATOR, at_budget
from attn.core.attention.flux.router import LayerRouter, sparsity_penalty, stack_speedup, temperature
from attn.core.attention.flux.selection import streaming_mask
from attn.core.attention.flux.xattention import block_sums

reference, blocked, cost, select = OPERATOR.reference, OPERATOR.blocked, OPERATOR.cost, OPERATOR.select
SMALL = {"sink": 16, "local": 40, "last": 20, "block_size": 16, "stride": 4, "threshold": 0.5, "chunk": 64}
MODES = ["streaming", "triangle", "xattn"]


@pytest.mark.parametrize(("shape", "dtype", "mode"), pairs(SHAPES, DTYPES, MODES), ids=str)
def test_blocked_matches_reference(shape, dtype, mode):
    q, k, v = random_qkv(shape, dtype)
    params = {"mode": mode, **SMALL}
    out = attention("flux", q, k, v, causal=True, **params)
    assert_as_accurate_as_eager(out, reference, q, k, v, **params)


@settings(max_examples=40, deadline=None)
@example(0, 0, 1, 1, 1, "streaming", "sparse", 0, 0, "official", 4)
@example(0, 5, 1, 1, 1, "xattn", "sparse", 0, 0, "official", 4)
@given(
    len_q=st.integers(0, 90), past=st.integers(0, 60), group=st.integers(1, 2), kv_heads=st.integers(1, 2),
    batch=st.integers(0, 2), mode=st.sampled_from(MODES), route=st.sampled_from(["sparse", "full"]),
    sink=st.sampled_from([0, 5, 16]), last=st.sampled_from([0, 3, 200]), rule=st.sampled_from(["official", "strict"]),
    block=st.sampled_from([4, 16]),
)  # fmt: skip
def test_blocked_equals_reference_in_float64(
    len_q, past, group, kv_heads, batch, mode, route, sink, last, rule, block
):  # fmt: skip
    q, k, v = random_qkv((batch, group * kv_heads, kv_heads, len_q, len_q + past, 8), torch.float64)
    params = {**SMALL, "mode": mode, "route": route, "sink": sink, "last": last, "xattn_rule": rule}
    params["block_size"] = block
    out = blocked(q, k, v, **params)
    assert out.shape == q.shape
    torch.testing.assert_close(out, reference(q, k, v, **params), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("len_q", "len_k"), [(75, 75), (50, 83), (1, 70), (64, 64)])
def test_the_selection_counts_what_it_shows(mode, len_q, len_k):
    q, k, v = random_qkv((2, 2, 1, len_q, len_k, 8), torch.float64)
    selection = select(q, k, mode=mode, **SMALL)
    mask = selection.mask(torch.arange(len_q))
    assert selection.useful == mask.sum()
    assert selection.executed >= selection.useful
    assert (selection.searched > 0) == (mode == "xattn" and len_q > 1)
    torch.testing.assert_close(
        masked_attention(q, k, v, mask), blocked(q, k, v, mode=mode, **SMALL), rtol=1e-12, atol=1e-12
    )
    if mode != "xattn":
        predicted = cost(shape_of(q, k, v, causal=True), mode=mode, **SMALL)
        assert predicted.attended == pytest.approx(selection.useful / (4 * len_q))


def test_streaming_sees_the_first_and_the_latest_blocks():
    at = torch.arange(6)
    assert streaming_mask(at, at, 1, 2).int().tolist() == [
        [1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0],
        [1, 0, 1, 1, 0, 0], [1, 0, 0, 1, 1, 0], [1, 0, 0, 0, 1, 1],
    ]  # fmt: skip


@pytest.mark.parametrize(("mode", "visited"), [("streaming", 16 + 32 + 10), ("triangle", 16 + 32 + 10), ("xattn", 90)])
def test_a_decode_step(mode, visited):
    q, k, _ = random_qkv((1, 1, 1, 1, 90, 8))
    selection = select(q, k, mode=mode, **SMALL)
    assert selection.mask(torch.tensor([0])).sum() == visited


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cut", [32, 41])
def test_a_continued_prefill_selects_what_the_whole_does(mode, cut):
    q, k, _ = random_qkv((1, 2, 1, 100, 100, 8), torch.float64)
    params = {"mode": mode, **SMALL, "chunk": 16}
    whole = select(q, k, **params).mask(torch.arange(100))
    rest = select(q[:, :, cut:], k, **params).mask(torch.arange(100 - cut))
    # the first block after the cut lacks the antidiagonals of the queries before it
    start = 48 if mode == "xattn" and cut == 41 else cut
    assert torch.equal(rest[:, :, start - cut :], whole[:, :, start:])


def test_gradients():
    q, k, v = (x.requires_grad_() for x in random_qkv((1, 1, 1, 7, 8, 2), torch.float64))
    params = {"sink": 2, "local": 2, "block_size": 2, "mode": "triangle", "last": 2}
    assert torch.autograd.gradcheck(lambda *x: blocked(*x, **params), (q, k, v))


def test_gradients_of_chosen_blocks_are_those_of_the_reference():
    q, k, v = (x.requires_grad_() for x in random_qkv((1, 2, 1, 70, 70, 8), torch.float64))
    ours, truth = (
        torch.autograd.grad(run(q, k, v, mode="xattn", **SMALL).square().sum(), (q, k, v))
        for run in (blocked, reference)
    )
    torch.testing.assert_close(ours, truth, rtol=1e-10, atol=1e-10)
    assert not block_sums(q, k).requires_grad


def tilted(logit, **options):
    """A router that always answers ``logit`` for full attention."""
    router = LayerRouter(8, **options).double()
    with torch.no_grad():
        router.last.bias[-1] = logit
    return router


class Odd(LayerRouter):
    """Sends every other sample to full attention."""

    def forward(self, q, **options):
        decision = super().forward(q, **options)
        return decision._replace(full=torch.arange(q.shape[0]) % 2.0)


def test_each_sample_takes_its_own_route():
    q, k, v = random_qkv((4, 2, 1, 70, 70, 8), torch.float64)
    out = attention("flux", q, k, v, causal=True, route="auto", router=Odd(8).double(), **SMALL)
    sparse, full = (blocked(q, k, v, route=route, **SMALL) for route in ("sparse", "full"))
    torch.testing.assert_close(out[0::2], sparse[0::2], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(out[1::2], full[1::2], rtol=1e-12, atol=1e-12)
    assert (sparse - full).abs().max() > 1e-3
    torch.testing.assert_close(reference(q, k, v, route="auto", router=Odd(8).double(), **SMALL), out)


@pytest.mark.parametrize("use_softmax", [True, False])
@pytest.mark.parametrize(("logit", "route"), [(2.0, "full"), (-2.0, "sparse")])
def test_the_router_decides(logit, route, use_softmax):
    q, k, v = random_qkv((2, 2, 1, 70, 70, 8), torch.float64)
    router = tilted(logit, use_softmax=use_softmax).eval()
    out = blocked(q, k, v, route="auto", router=router, **SMALL)
    assert torch.equal(out, blocked(q, k, v, route=route, **SMALL))
    assert router(q).prob.tolist() == pytest.approx([1 / (1 + torch.tensor(-logit).exp().item())] * 2)


@pytest.mark.parametrize("use_softmax", [True, False])
def test_training_mixes_both_and_reaches_the_router(use_softmax):
    q, k, v = random_qkv((3, 2, 1, 70, 70, 8), torch.float64)
    router = tilted(0.0, use_softmax=use_softmax).train()
    torch.manual_seed(0)
    out = blocked(q, k, v, route="auto", router=router, **SMALL)
    sparse, full = (blocked(q, k, v, route=route, **SMALL) for route in ("sparse", "full"))
    for sample in range(3):  # hard in the forward pass
        assert any(torch.allclose(out[sample], kind[sample], rtol=1e-12) for kind in (sparse, full))
    out.square().sum().backward()
    assert router.last.bias.grad.abs().max() > 0


def test_noise_comes_from_the_generator():
    q = torch.randn(50, 1, 4, 8, dtype=torch.float64)
    router = tilted(0.0).train()
    one, two = (router(q, generator=torch.Generator().manual_seed(3)).full for _ in range(2))
    assert torch.equal(one, two)
    assert 5 < one.sum() < 45
    assert router(q, tau=0.01).prob.sub(0.5).abs().mean() > router(q, tau=100.0).prob.sub(0.5).abs().mean()


def test_pooling_takes_the_ends_of_the_span():
    router = LayerRouter(8, pool_size=2)
    q = torch.arange(10.0)[None, None, :, None].expand(3, 1, 10, 8)
    spans = torch.tensor([[1, 8], [4, 5], [3, 3]])
    assert router.pooled(q, spans)[:, 0, 0].tolist() == [(1 + 2 + 7 + 8) / 4, 4.5, 3]
    assert router.pooled(q)[0, 0, 0] == (0 + 1 + 8 + 9) / 4
    with pytest.raises(ValueError, match="0 <= first <= last < 10"):
        router.pooled(q, torch.tensor([[1, 8], [4, 10], [3, 3]]))
    with pytest.raises(ValueError, match="at least one token"):
        router.pooled(q[:, :, :0])


def test_a_new_router_says_full():
    router = LayerRouter(128).eval()
    assert sum(p.numel() for p in router.parameters()) == 36 * 128**2 + 17 * 128 + 2
    assert router(torch.randn(1, 2, 5, 128)).prob.item() == pytest.approx(0.989, abs=1e-3)


def test_schedule_and_penalty():
    assert [temperature(s, 100) for s in (0, 30, 60, 100)] == pytest.approx([1.5, 1.25, 1, 1])
    full = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]], requires_grad=True)  # sparsity 0.5, 1, 0
    multipliers = torch.tensor([[2.0, 4.0], [-1.0, 1.0]], requires_grad=True)
    task = torch.tensor([0, 0, 1])
    penalty = sparsity_penalty(full, torch.tensor([0.5, 0.5, 1.0]), multipliers, task)
    assert penalty.item() == pytest.approx(((0 + (2 * 0.5 + 4 * 0.25)) / 2 + (0 + 1.0)) / 2)
    penalty.backward()
    assert full.grad.abs().sum() > 0
    assert multipliers.grad[0].abs().sum() > 0


def test_speedup_of_a_stack():
    assert stack_speedup([True, False, False, True], sparse_seconds=1, full_seconds=10) == pytest.approx(1 / 0.55)
    assert stack_speedup([True], sparse_seconds=1, full_seconds=10) == 1
    with pytest.raises(ValueError, match="one route per layer"):
        stack_speedup([], sparse_seconds=1, full_seconds=1)


@pytest.mark.parametrize("keys", [512, 2048])
def test_budget(keys):
    shape = Shape(1, 1, 1, 1 << 16, 1 << 16, 64, 64, causal=True)
    assert cost(shape, **at_budget(keys, shape)).attended == pytest.approx(keys, abs=64)  # half a block


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"mode": "topk"}, "streaming, triangle or xattn"),
        ({"route": "both"}, "sparse, full or auto"),
        ({"route": "auto"}, "needs router"),
        ({"local": 0}, "at least 1"),
        ({"sink": -1}, "not negative"),
        ({"mode": "xattn", "stride": 7}, "must divide block_size"),
        ({"mode": "xattn", "threshold": 1.5}, r"must be in \(0, 1\]"),
        ({"mode": "xattn", "chunk": 200}, "multiple of block_size"),
        ({"mode": "xattn", "xattn_rule": "mine"}, "official or strict"),
        ({"route": "auto", "router": LayerRouter(16), "router_input": torch.zeros(3, 1, 4, 16)}, "3 samples, q has 1"),
    ],
)
def test_bad_parameters(params, message):
    q, k, v = random_qkv((1, 2, 1, 40, 40, 16))
    with pytest.raises(ValueError, match=message):
        attention("flux", q, k, v, causal=True, **params)


def test_no_new_decision_while_decoding():
    q, k, v = random_qkv((1, 2, 1, 1, 40, 8))
    router = LayerRouter(8).eval()
    with pytest.raises(ValueError, match="decided once, at prefill"):
        blocked(q, k, v, route="auto", router=router)
    out = blocked(q, k, v, route="auto", router=router, router_input=k)
    torch.testing.assert_close(out, masked_attention(q, k, v, causal_mask(1, 40)))


@pytest.mark.parametrize("mode", ["streaming", "xattn"])
def test_memory_is_linear(mode):
    q, k, v = random_qkv((1, 1, 1, 8192, 8192, 32))
    with LargestTensor() as made:
        select(q, k, mode=mode)
    assert made.bytes <= 2 * q.nbytes  # 8192 x 8192 bools would be 32 times that
    with LargestTensor() as made:
        blocked(q[:, :, :3000], k[:, :, :3000], v[:, :, :3000], mode=mode, local=512)
    assert made.bytes <= 3000 * 3000 / 4


def test_bits_do_not_depend_on_threads_or_layout():
    q, k, v = random_qkv((1, 4, 2, 500, 500, 64))
    before = torch.get_num_threads()
    for mode in MODES:
        try:
            torch.set_num_threads(1)
            one = blocked(q, k, v, mode=mode, **SMALL)
            torch.set_num_threads(2)
            two = blocked(q, k, v, mode=mode, **SMALL)
        finally:
            torch.set_num_threads(before)
        assert torch.equal(one, two)
        apart = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v))
        assert torch.equal(blocked(*apart, mode=mode, **SMALL), one)


@pytest.mark.parametrize(("given", "message"), [({"router": "x"}, "a LayerRouter"), ({"threshold": math.nan}, "0, 1")])
def test_what_is_no_router_and_no_threshold_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        attention("flux", *torch.zeros(3, 1, 1, 8, 8), causal=True, **given)
