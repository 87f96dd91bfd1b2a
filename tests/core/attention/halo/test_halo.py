"""Halo attention: methods/halonet.md, sections 9 and 11."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from qkv import DTYPES, LargestTensor, assert_as_accurate_as_eager, random_qkv

from attn.core.attention import attention
from attn.core.attention.contract import Shape
from attn.core.attention.equations import masked_attention
from attn.core.attention.halo import attend as halo_attend
from attn.core.attention.halo.operator import OPERATOR as halo

CASES = [
    ((1, 1, 1, 12, 16, 32), {"block_size": 4, "halo": 1}),
    ((2, 4, 2, 12, 16, 80), {"block_size": 4, "halo": 2, "tables": True}),
    ((2, 6, 1, 13, 10, 64), {"block_size": 5, "halo": 2, "tables": True, "scale_pos": True, "pad": True}),
    ((1, 2, 2, 9, 11, 32), {"block_size": 4, "halo": 1, "tables": True, "mask_border": True, "pad": True}),
    ((1, 2, 1, 9, 11, 32), {"block_size": 8, "halo": 0, "mask_border": True, "pad": True}),
    ((0, 2, 1, 4, 4, 32), {"block_size": 2, "halo": 1}),
]


def tables(block_size, halo, dim, seed=7):
    """Two tables of relative positions."""
    generator = torch.Generator().manual_seed(seed)
    sides = torch.randn(2, 2 * (block_size + 2 * halo) - 1, dim, generator=generator, dtype=torch.float64)
    return dict(zip(("height_rel", "width_rel"), sides * dim**-0.5, strict=True))


def inputs(sizes, dtype=torch.float32):
    """q, k, v of (B, Hq, Hkv, h, w, D) and the grid."""
    batch, heads, kv_heads, height, width, dim = sizes
    return *random_qkv((batch, heads, kv_heads, height * width, height * width, dim), dtype), (height, width)


def unpack(case, dtype):
    """A case's q, k, v and parameters."""
    sizes, params = case[0], dict(case[1])
    q, k, v, grid = inputs(sizes, dtype)
    if params.pop("tables", False):
        params |= tables(params["block_size"], params["halo"], q.shape[3])
    return q, k, v, {"grid": grid, **params}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_reference(case, dtype):
    q, k, v, params = unpack(case, dtype)
    out = attention("halo", q, k, v, causal=False, **params)
    assert_as_accurate_as_eager(out, halo.reference, q, k, v, **params)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("value_dim", [24, 96])
def test_float64_is_exact(case, value_dim):
    q, k, _, params = unpack(case, torch.float64)
    v = torch.randn(*k.shape[:3], value_dim, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    out, truth = (f(q, k, v, **params) for f in (halo.blocked, halo.reference))
    torch.testing.assert_close(out, truth, rtol=1e-12, atol=1e-12)


@settings(deadline=None, max_examples=30)
@given(
    height=st.integers(1, 13), width=st.integers(1, 13), block_size=st.integers(1, 7), border=st.integers(0, 5),
    group=st.integers(1, 3), kv_heads=st.integers(1, 2), relative=st.booleans(), scale_pos=st.booleans(),
    mask_border=st.booleans(), chunk=st.sampled_from([1, 30_000, halo_attend.CHUNK_BYTES]),
)  # fmt: skip
def test_any_grid(height, width, block_size, border, group, kv_heads, relative, scale_pos, mask_border, chunk):
    q, k, v, grid = inputs((2, group * kv_heads, kv_heads, height, width, 4), torch.float64)
    params = {
        "grid": grid, "block_size": block_size, "halo": border, "scale_pos": scale_pos, "mask_border": mask_border,
        "pad": True, **(tables(block_size, border, 4) if relative else {}),
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(halo_attend, "CHUNK_BYTES", chunk)
        out = halo.blocked(q, k, v, **params)
    torch.testing.assert_close(out, halo.reference(q, k, v, **params), rtol=1e-12, atol=1e-12)


def test_by_loops():
    """Steps 3.1.4-3.1.8 pixel by pixel: 6 x 4 map, blocks of 2, halo 1."""
    q, k, v, grid = inputs((1, 1, 1, 6, 4, 3), torch.float64)
    rel = tables(2, 1, 3)
    out = halo.blocked(q, k, v, grid=grid, block_size=2, halo=1, **rel).reshape(6, 4, 3)
    qm, km, vm = (t.reshape(6, 4, 3) for t in (q, k, v))
    zero = torch.zeros(3, dtype=torch.float64)
    for y0 in range(6):
        for x0 in range(4):
            logits, values = [], []
            for r in range(4):
                for c in range(4):
                    y, x = y0 // 2 * 2 - 1 + r, x0 // 2 * 2 - 1 + c
                    on_map = 0 <= y < 6 and 0 <= x < 4
                    key, value = (km[y, x], vm[y, x]) if on_map else (zero, zero)
                    position = rel["height_rel"][r - y0 % 2 + 3] + rel["width_rel"][c - x0 % 2 + 3]
                    logits.append(qm[y0, x0] @ key * 3**-0.5 + qm[y0, x0] @ position)
                    values.append(value)
            truth = torch.stack(logits).softmax(0) @ torch.stack(values)
            torch.testing.assert_close(out[y0, x0], truth, rtol=1e-12, atol=1e-12)


def test_one_block_is_full_attention():
    """Check 2: b = H = W, h = 0, tables of zeros."""
    q, k, v, grid = inputs((2, 4, 2, 6, 6, 16))
    zeros = {name: torch.zeros(11, 16) for name in ("height_rel", "width_rel")}
    out = attention("halo", q, k, v, causal=False, grid=grid, block_size=6, halo=0, **zeros)
    torch.testing.assert_close(out, masked_attention(q, k, v, None), rtol=1e-5, atol=1e-6)


def test_blocks_of_one_are_a_sliding_window():
    """Check 3: b = 1, h = 2: every pixel sees the 5 x 5 around it."""
    q, k, v, grid = inputs((1, 2, 2, 6, 6, 8), torch.float64)
    y, x = torch.arange(36) // 6, torch.arange(36) % 6
    near = ((y[:, None] - y).abs() <= 2) & ((x[:, None] - x).abs() <= 2)
    out = attention("halo", q, k, v, causal=False, grid=grid, block_size=1, halo=2, mask_border=True)
    torch.testing.assert_close(out, masked_attention(q, k, v, near), rtol=1e-12, atol=1e-12)


def test_a_constant_in_the_position_term_changes_nothing():
    """Check 4: adding one vector to all rows of a table adds one number to all scores of a query."""
    q, k, v, grid = inputs((1, 2, 2, 8, 8, 8), torch.float64)
    rel = tables(4, 1, 8)
    moved = {**rel, "height_rel": rel["height_rel"] + torch.randn(8, dtype=torch.float64)}
    first, second = (halo.blocked(q, k, v, grid=grid, block_size=4, halo=1, **t) for t in (rel, moved))
    torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-12)


def test_shifts_by_a_block():
    """Check 5: blocks break translation by one pixel, not by a block."""
    q, k, v, grid = inputs((1, 1, 1, 16, 16, 8))
    params = {"grid": grid, "block_size": 4, "halo": 2, **tables(4, 2, 8)}
    out = halo.blocked(q, k, v, **params).reshape(16, 16, 8)
    for shift, same in ((4, True), (1, False)):
        moved = [t.reshape(1, 1, 16, 16, 8).roll(shift, 3).reshape(t.shape) for t in (q, k, v)]
        back = halo.blocked(*moved, **params).reshape(16, 16, 8).roll(-shift, 1)
        assert torch.allclose(out[:, 4:8], back[:, 4:8], atol=1e-6) is same


def test_the_border_takes_its_share():
    """Check 6: with values of one, the result is the weight that stays on the map."""
    q, k, v, grid = inputs((1, 2, 2, 12, 12, 8))
    ones = torch.ones_like(v)
    params = {"grid": grid, "block_size": 4, "halo": 1, **tables(4, 1, 8)}
    torch.testing.assert_close(halo.blocked(q, k, ones, mask_border=True, **params), ones)
    kept = halo.blocked(q, k, ones, **params).reshape(2, 12, 12, 8)
    torch.testing.assert_close(kept[:, 4:8, 4:8], torch.ones(2, 4, 4, 8))
    kept[:, 4:8, 4:8] = 0
    assert kept.max() < 0.999


@pytest.mark.parametrize("params", [{}, {"mask_border": True, "scale_pos": True}], ids=str)
def test_gradients(params):
    """Check 8: a block with all nine neighbours present, and the tables."""
    q, k, v, grid = inputs((1, 2, 1, 6, 6, 2), torch.float64)
    rel = tables(2, 1, 2)
    leaves = [t.requires_grad_() for t in (q, k, v, *rel.values())]

    def attend(q, k, v, height_rel, width_rel):
        return halo.blocked(
            q, k, v, grid=grid, block_size=2, halo=1, height_rel=height_rel, width_rel=width_rel, **params
        )

    assert torch.autograd.gradcheck(attend, leaves)


@pytest.mark.parametrize("case", CASES[:5], ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-4), (torch.bfloat16, 0.1)])
def test_gradients_in_pieces(monkeypatch, case, dtype, tolerance):
    """The gradient of every tile lands where it belongs: against autograd through the reference."""
    monkeypatch.setattr(halo_attend, "CHUNK_BYTES", 100_000)
    found = []
    for function, precision in ((halo.blocked, dtype), (halo.reference, torch.float64)):
        *qkv, params = unpack(case, dtype)
        leaves = [t.to(precision).requires_grad_() for t in qkv]
        names = [name for name in ("height_rel", "width_rel") if name in params]
        leaves += [params[name].requires_grad_() for name in names]
        out = function(*leaves[:3], **{**params, **dict(zip(names, leaves[3:], strict=True))})
        weight = torch.linspace(-1, 1, out.numel(), dtype=precision).reshape(out.shape)
        found.append(torch.autograd.grad(out, leaves, weight))
    for ours, truth in zip(*found, strict=True):
        assert (ours.double() - truth).abs().max() <= tolerance * truth.abs().max()


@pytest.mark.parametrize("grid", [(256, 128), (8, 4096)], ids=str)
def test_linear_in_length(grid):
    q, k, v = random_qkv((1, 1, 1, 32768, 32768, 8))
    with LargestTensor() as seen:
        halo.blocked(q, k, v, grid=grid, **tables(8, 3, 8))
    assert seen.bytes <= max(halo_attend.CHUNK_BYTES, 3 * q.nbytes)


def test_same_bits_for_any_thread_count():
    for dtype in (torch.float32, torch.bfloat16):
        q, k, v, grid = inputs((1, 2, 1, 64, 64, 32), dtype)
        results, threads = [], torch.get_num_threads()
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(halo.blocked(q, k, v, grid=grid, **tables(8, 3, 32)))
        torch.set_num_threads(threads)
        assert torch.equal(results[0], results[1])
        assert torch.equal(results[0], results[2])


def test_strides_do_not_matter():
    q, k, v, grid = inputs((2, 2, 2, 8, 8, 16))
    strided = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in (q, k, v)]
    assert not strided[0].is_contiguous()
    assert torch.equal(halo.blocked(*strided, grid=grid), halo.blocked(q, k, v, grid=grid))


def test_cost_and_budget():
    shape = Shape(2, 4, 2, 4096, 4096, 32, 16, grid=(64, 64))
    found = halo.cost(shape)
    assert (found.searched, found.attended) == (0, 14**2)
    assert found.flops == 2 * 2 * 4 * 4096 * 14**2 * (32 + 16)
    for keys in (64, 196, 1024):
        assert halo.cost(shape, **halo.at_budget(keys, shape)).attended == pytest.approx(keys, rel=0.05)
    assert halo.at_budget(196, shape)["halo"] == 3


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"block_size": 5}, r"block_size=5 does not divide the grid 8x12. Use pad=True, or block_size of 1, 2, 4\."),
        ({"block_size": 0}, "use a block of 1 or more"),
        ({"block_size": 4, "halo": -1}, "a halo of 0 or more"),
        ({"block_size": 4, "height_rel": torch.zeros(19, 4)}, "pass both or neither"),
        (
            {"block_size": 4, "height_rel": torch.zeros(19, 4), "width_rel": torch.zeros(18, 4)},
            r"width_rel has shape \[18, 4\]; block_size=4, halo=3 and head_dim 4 need \[19, 4\]",
        ),
        ({"causal": True}, "not causal: pass causal=False"),
        ({"grid": (8, 11)}, "grid 8x11 has 88 tokens, k has 96"),
    ],
    ids=str,
)
def test_refuses(params, message):
    q, k, v, grid = inputs((1, 2, 1, 8, 12, 4))
    with pytest.raises(ValueError, match=message):
        attention("halo", q, k, v, **{"causal": False, "grid": grid, **params})
