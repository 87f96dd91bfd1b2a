"""Bi-level routing attention: methods/biformer.md, sections 9 and 11."""

import weakref

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from qkv import DTYPES, assert_as_accurate_as_eager, random_qkv
from torch.utils._python_dispatch import TorchDispatchMode

from attn.core.attention import attention
from attn.core.attention.bra import attend as bra_attend
from attn.core.attention.bra.operator import OPERATOR as bra
from attn.core.attention.bra.operator import attention_maps
from attn.core.attention.contract import Shape
from attn.core.attention.equations import masked_attention

GRIDS = [
    ((1, 1, 1, 12, 16, 32), {"n_win": 4, "topk": 3}),
    ((2, 4, 2, 12, 16, 80), {"n_win": 4, "topk": 2, "soft_routing": True}),
    ((2, 6, 1, 13, 10, 64), {"n_win": 4, "topk": 5, "pad": True}),
    ((2, 2, 2, 9, 11, 32), {"n_win": 8, "topk": 60, "pad": True, "mask_padding": True}),  # regions of padding alone
    ((0, 2, 1, 4, 4, 32), {"n_win": 2, "topk": 1}),
]


def inputs(sizes, dtype=torch.float32, seed=0):
    """q, k, v of (B, Hq, Hkv, h, w, D) and the grid."""
    batch, heads, kv_heads, height, width, dim = sizes
    return *random_qkv((batch, heads, kv_heads, height * width, height * width, dim), dtype, seed=seed), (height, width)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("sizes", "params"), GRIDS, ids=str)
def test_matches_reference(sizes, params, dtype):
    q, k, v, grid = inputs(sizes, dtype)
    out = attention("bra", q, k, v, causal=False, grid=grid, **params)
    assert_as_accurate_as_eager(out, bra.reference, q, k, v, grid=grid, **params)


@pytest.mark.parametrize(("sizes", "params"), GRIDS, ids=str)
@pytest.mark.parametrize("value_dim", [24, 96])
def test_float64_is_exact(sizes, params, value_dim):
    q, k, _, grid = inputs(sizes, torch.float64)
    v = torch.randn(*k.shape[:3], value_dim, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    out, truth = (f(q, k, v, grid=grid, **params) for f in (bra.blocked, bra.reference))
    torch.testing.assert_close(out, truth, rtol=1e-12, atol=1e-12)


@settings(deadline=None, max_examples=30)
@given(
    height=st.integers(1, 13), width=st.integers(1, 13), n_win=st.integers(1, 6), share=st.floats(0, 1),
    group=st.integers(1, 3), kv_heads=st.integers(1, 2), mask_padding=st.booleans(), soft_routing=st.booleans(),
    chunk=st.sampled_from([1, 20_000, bra_attend.CHUNK_BYTES]),
)  # fmt: skip
def test_any_grid(height, width, n_win, share, group, kv_heads, mask_padding, soft_routing, chunk):
    q, k, v, grid = inputs((2, group * kv_heads, kv_heads, height, width, 8), torch.float64)
    params = {
        "grid": grid, "n_win": n_win, "topk": 1 + int(share * (n_win**2 - 1)), "pad": True,
        "mask_padding": mask_padding, "soft_routing": soft_routing,
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bra_attend, "CHUNK_BYTES", chunk)
        out = bra.blocked(q, k, v, **params)
    torch.testing.assert_close(out, bra.reference(q, k, v, **params), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "params", [{"grid": (8, 12), "n_win": 4}, {"grid": (8, 12), "n_win": 5, "pad": True, "mask_padding": True}], ids=str
)
def test_all_regions_is_full_attention(params):
    q, k, v = random_qkv((2, 4, 2, 96, 96, 16), torch.float64)
    out = attention("bra", q, k, v, causal=False, topk=params["n_win"] ** 2, **params)
    torch.testing.assert_close(out, masked_attention(q, k, v, None, scale=(4 * 16) ** -0.5), rtol=1e-12, atol=1e-12)


def test_routes_where_planted():
    """Region p of the queries points in direction p, region p + 1 of the keys too: each must choose its neighbour."""
    direction = torch.eye(16).reshape(4, 4, 16).repeat_interleave(3, 0).repeat_interleave(2, 1)  # map of 12 x 8
    q = direction.reshape(1, 1, 96, 16)
    k = direction.roll(1, -1).reshape(1, 1, 96, 16)
    routing = bra.select(q, k, grid=(12, 8), n_win=4, topk=1)
    assert routing.index.flatten().tolist() == [15, *range(15)]


@pytest.mark.parametrize("mask_padding", [False, True])
def test_routing_logits_by_loops(mask_padding):
    """Means over the tokens of a region, padding counted as zeros or not at all; heads side by side, k's repeated."""
    q, k, _, (height, width) = inputs((1, 4, 2, 7, 5, 3), torch.float64)
    logits = bra.select(q, k, grid=(7, 5), n_win=3, topk=1, pad=True, mask_padding=mask_padding).logits
    means = []
    for x in (q, k.repeat_interleave(2, 1)):
        for region in range(9):
            rows, cols = (range(side * i, side * (i + 1)) for side, i in zip((3, 2), divmod(region, 3), strict=True))
            tokens = [x[0, :, r * width + c].flatten() for r in rows for c in cols if r < height and c < width]
            means.append(sum(tokens) / (len(tokens) if mask_padding else 6))
    truth = torch.stack(means[:9]) @ torch.stack(means[9:]).T * 12**-0.5
    torch.testing.assert_close(logits[0], truth, rtol=1e-12, atol=1e-12)


def test_scale_is_of_the_full_width_and_shared_by_routing():
    q, k, v, grid = inputs((1, 4, 4, 8, 8, 16))
    full = bra.blocked(q, k, v, grid=grid, n_win=4, topk=2, soft_routing=True)
    assert torch.equal(full, bra.blocked(q, k, v, grid=grid, n_win=4, topk=2, soft_routing=True, scale=64**-0.5))
    twice = bra.select(q, k, grid=grid, n_win=4, topk=2, scale=0.5).logits
    torch.testing.assert_close(twice, 2 * bra.select(q, k, grid=grid, n_win=4, topk=2, scale=0.25).logits)


def test_lepe_is_a_convolution_of_v():
    q, k, v, grid = inputs((2, 2, 1, 6, 8, 4), torch.float64)
    lepe, bias = torch.randn(8, 1, 3, 3, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    params = {"grid": grid, "n_win": 2, "topk": 2}
    added = bra.blocked(q, k, v, lepe=lepe, lepe_bias=bias, **params) - bra.blocked(q, k, v, **params)
    truth = torch.zeros(2, 2, 6, 8, 4, dtype=torch.float64)
    padded = F.pad(v.reshape(2, 6, 8, 4), (0, 0, 1, 1, 1, 1))
    for head in range(2):
        for c in range(4):
            truth[:, head, :, :, c] = bias[4 * head + c]
            for dy in range(3):
                for dx in range(3):
                    part = padded[:, dy : dy + 6, dx : dx + 8, c]
                    truth[:, head, :, :, c] += lepe[4 * head + c, 0, dy, dx] * part
    torch.testing.assert_close(added, truth.reshape(2, 2, 48, 4), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        bra.reference(q, k, v, lepe=lepe, lepe_bias=bias, **params),
        bra.blocked(q, k, v, lepe=lepe, lepe_bias=bias, **params),
    )


@pytest.mark.parametrize("soft_routing", [False, True])
def test_gradients(soft_routing):
    q, k, v, grid = inputs((1, 2, 1, 6, 6, 3), torch.float64)
    lepe = torch.randn(6, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    routing = bra.select(q, k, grid=grid, n_win=3, topk=2)

    def attend(q, k, v, lepe):
        return bra.attend(q, k, v, routing, grid=grid, soft_routing=soft_routing, lepe=lepe)

    leaves = [t.requires_grad_() for t in (q, k, v)]
    assert torch.autograd.gradcheck(attend, (*leaves, lepe))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-4), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize(
    "params",
    [
        {"grid": (12, 12), "n_win": 3, "topk": 4},
        {"grid": (12, 12), "n_win": 3, "topk": 4, "soft_routing": True},
        {"grid": (9, 16), "n_win": 4, "topk": 5, "pad": True, "mask_padding": True},
    ],
    ids=str,
)
def test_gradients_in_pieces(monkeypatch, params, dtype, tolerance):
    """The gradient of every chunk lands where it belongs: against autograd through the reference."""
    monkeypatch.setattr(bra_attend, "CHUNK_BYTES", 100_000)
    found = []
    for function, precision in ((bra.blocked, dtype), (bra.reference, torch.float64)):
        q, k, v = random_qkv((2, 4, 2, 144, 144, 16), dtype)
        leaves = [t.to(precision).requires_grad_() for t in (q, k, v)]
        out = function(*leaves, **params)
        weight = torch.linspace(-1, 1, out.numel(), dtype=precision).reshape(out.shape)
        found.append(torch.autograd.grad(out, leaves, weight))
    for ours, truth in zip(*found, strict=True):
        assert (ours.double() - truth).abs().max() <= tolerance * truth.abs().max()


def test_no_gradient_through_routing():
    q, k, v, grid = inputs((1, 2, 2, 8, 8, 8))
    params = {"grid": grid, "n_win": 4, "topk": 3}
    leaves = [t.requires_grad_() for t in (q, k)]
    routing = bra.select(q, k, **params)
    assert not routing.logits.requires_grad
    assert not routing.weight.requires_grad
    whole = torch.autograd.grad(bra.blocked(q, k, v, soft_routing=True, **params).sum(), leaves)
    fixed = torch.autograd.grad(bra.attend(q, k, v, routing, grid=grid, soft_routing=True).sum(), leaves)
    assert all(torch.equal(a, b) for a, b in zip(whole, fixed, strict=True))
    assert whole[0].abs().max() > 0


@pytest.mark.parametrize(("grid", "pad"), [((8, 12), False), ((7, 9), True)], ids=str)
def test_selection_counts_what_is_attended(grid, pad):
    q, k, v = random_qkv((2, 2, 1, grid[0] * grid[1], grid[0] * grid[1], 8), torch.float64)
    params = {"grid": grid, "n_win": 4, "topk": 5, "pad": pad, "mask_padding": pad}
    routing = bra.select(q, k, **params)
    rows = torch.arange(grid[0] * grid[1])
    mask = routing.mask(rows)
    assert mask.shape == (2, 2, len(rows), len(rows))
    assert routing.useful == int(mask.sum())
    assert torch.equal(routing.mask(rows[[3, 40]]), mask[:, :, [3, 40]])
    truth = masked_attention(q, k, v, mask, scale=16**-0.5)
    torch.testing.assert_close(bra.blocked(q, k, v, **params), truth, rtol=1e-12, atol=1e-12)


def test_cost_agrees_with_the_selection():
    q, k, _, grid = inputs((2, 4, 2, 16, 24, 8))
    routing = bra.select(q, k, grid=grid, n_win=4, topk=5)
    shape = Shape(2, 4, 2, 384, 384, 8, 8, grid=grid)
    found = bra.cost(shape, n_win=4, topk=5)
    queries = 2 * 4 * 384
    assert found.attended == routing.useful / queries == routing.executed / queries == 5 * 24
    assert found.searched == routing.searched / queries
    assert found.flops == 2 * 8 * (2 * routing.executed + routing.searched)


@pytest.mark.parametrize("grid", [(256, 256), (56, 56), (48, 80)], ids=str)
@pytest.mark.parametrize("keys", [128, 512, 1024])
def test_at_budget(grid, keys):
    shape = Shape(1, 1, 1, grid[0] * grid[1], grid[0] * grid[1], 32, 32, grid=grid)
    found = bra.cost(shape, **bra.at_budget(keys, shape))
    assert found.searched + found.attended == pytest.approx(keys, rel=0.15)


@pytest.mark.parametrize("mask_padding", [False, True])
def test_attention_maps_are_the_weights(mask_padding):
    """With grouped heads and padding: the maps times the gathered values give the result."""
    q, k, v, grid = inputs((2, 4, 2, 7, 9, 8), torch.float64)
    params = {"grid": grid, "n_win": 3, "topk": 4, "pad": True, "mask_padding": mask_padding}
    routing = bra.select(q, k, **params)
    maps = attention_maps(q, k, routing, scale=32**-0.5)  # [B, P, Hq, T, topk * T]
    assert maps.shape == (2, 9, 4, 9, 36)
    values = F.pad(v.repeat_interleave(2, 1).reshape(2, 4, 7, 9, 8), (0, 0, 0, 0, 0, 2))
    values = values.reshape(2, 4, 3, 3, 3, 3, 8).transpose(3, 4).reshape(2, 4, 9, 9, 8)  # [B, Hq, P, T, Dv]
    for sample in range(2):
        for region in range(9):
            chosen = values[sample, :, routing.index[sample, region]].flatten(1, 2)  # [Hq, topk * T, Dv]
            truth = bra.blocked(q, k, v, **params)[sample].reshape(4, 7, 9, 8)
            y, x = (3 * i for i in divmod(region, 3))
            found = (maps[sample, region] @ chosen).reshape(4, 3, 3, 8)[:, : 7 - y]
            torch.testing.assert_close(found, truth[:, y : y + 3, x : x + 3], rtol=1e-12, atol=1e-12)


class Allocations(TorchDispatchMode):
    """Largest tensor made inside, and the most bytes alive at once."""

    def __init__(self):
        super().__init__()
        self.largest = self.peak = 0
        self.live = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for t in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(t, torch.Tensor):
                self.see(t)
        return out

    def see(self, t):
        self.largest = max(self.largest, t.nbytes)
        pointer = t.untyped_storage().data_ptr()
        size, users = self.live.get(pointer, (t.untyped_storage().nbytes(), 0))
        self.live[pointer] = (size, users + 1)
        weakref.finalize(t, self.drop, pointer)
        self.peak = max(self.peak, sum(size for size, _ in self.live.values()))

    def drop(self, pointer):
        size, users = self.live.pop(pointer)
        if users > 1:
            self.live[pointer] = (size, users - 1)


def test_memory_stays_within_the_budget():
    """Section 11, check 6: the gather form would hold 2 x 4 copies of k and v, 32 MB, and scores of 64 MB."""
    q, k, v, grid = inputs((1, 1, 1, 128, 128, 64))
    with Allocations() as seen:
        bra.blocked(q, k, v, grid=grid, n_win=8, topk=4)
    assert seen.largest <= bra_attend.CHUNK_BYTES
    assert seen.peak <= bra_attend.CHUNK_BYTES + 7 * q.nbytes  # regions of q, k, v; results in pieces, whole, as a map


def test_linear_in_length():
    q, k, v, grid = inputs((1, 1, 1, 256, 128, 8))
    with Allocations() as seen:
        bra.blocked(q, k, v, grid=grid, n_win=16, topk=4)
    assert seen.largest <= bra_attend.CHUNK_BYTES < 32768**2 / 100


def test_same_bits_for_any_thread_count():
    for dtype in (torch.float32, torch.bfloat16):
        q, k, v, grid = inputs((1, 2, 1, 64, 64, 32), dtype)
        results, threads = [], torch.get_num_threads()
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(bra.blocked(q, k, v, grid=grid, n_win=8, topk=4))
        torch.set_num_threads(threads)
        assert torch.equal(results[0], results[1])
        assert torch.equal(results[0], results[2])


def test_strides_do_not_matter():
    q, k, v, grid = inputs((2, 2, 2, 8, 8, 16))
    strided = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in (q, k, v)]
    assert not strided[0].is_contiguous()
    params = {"grid": grid, "n_win": 4, "topk": 2}
    assert torch.equal(bra.blocked(*strided, **params), bra.blocked(q, k, v, **params))


def test_nan_is_kept():
    q, k, v, grid = inputs((1, 1, 1, 8, 8, 8))
    v[0, 0, 0] = torch.nan
    assert bra.blocked(q, k, v, grid=grid, n_win=2, topk=4).isnan().any()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_win": 5}, r"n_win=5 does not divide the grid 8x12. Use pad=True, or n_win of 1, 2, 4\."),
        ({"n_win": 0}, "use 1 or more"),
        ({"n_win": 4, "topk": 17}, r"topk=17 of 16 regions \(4x4\)"),
        ({"n_win": 4, "topk": 0}, "topk=0 of 16 regions"),
        ({"n_win": 4, "lepe": torch.zeros(8, 1, 4, 4)}, r"lepe has shape \[8, 1, 4, 4\]: use \[8, 1, n, n\], n odd"),
        ({"n_win": 4, "lepe": torch.zeros(4, 1, 3, 3)}, r"use \[8, 1, n, n\]"),
        ({"n_win": 4, "lepe_bias": torch.zeros(8)}, "lepe_bias without lepe"),
        ({"causal": True}, "not causal: pass causal=False"),
        ({"grid": None}, "pass grid="),
    ],
    ids=str,
)
def test_refuses(params, message):
    q, k, v, grid = inputs((1, 2, 1, 8, 12, 4))
    with pytest.raises(ValueError, match=message):
        attention("bra", q, k, v, **{"causal": False, "grid": grid, **params})
