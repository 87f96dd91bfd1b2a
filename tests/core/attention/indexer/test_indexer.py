"""Index operands, scores, pooling, packed search and token attention."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from qkv import random_qkv

from attn.core.attention.indexer.module import (
    LightningIndexer,
    fake_quantise,
    hadamard,
    index_iou,
    index_scores,
    quantise_fp8,
    rotate,
)
from attn.core.attention.indexer.pool import IncrementalPool, block_scores, pool_blocks
from attn.core.attention.indexer.search import hisa_index, lightning_index
from attn.core.attention.tokens.attend import sparse_topk_attention


def packed(num_queries, num_tokens, heads=3, dim=32, *, seed=0, dtype=torch.float32):
    """q, k and weights, some of them negative."""
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(num_queries, heads, dim, generator=generator, dtype=torch.float64).to(dtype),
        torch.randn(num_tokens, dim, generator=generator, dtype=torch.float64).to(dtype),
        torch.randn(num_queries, heads, generator=generator, dtype=torch.float64).to(dtype),
    )


def best(scores, top_k):
    """Sets of the positions of a row's largest finite entries."""
    order = sorted((i for i, s in enumerate(scores) if s != -torch.inf), key=lambda i: (-scores[i], i))
    return set(order[:top_k])


def test_fp8_keeps_three_bits_and_never_overflows():
    x = torch.randn(50, 256, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 50)[:, None]
    values, scale = quantise_fp8(x)
    assert values.abs().max() == 448
    assert torch.equal(values, values.to(torch.float8_e4m3fn).float())
    assert ((values * scale - x).abs() <= x.abs() / 16 + scale * 2**-10).all()
    assert (scale[:, :128] != scale[:, 128:]).any()  # one scale for each 128 channels


def test_ue8m0_scales_are_powers_of_two_and_not_smaller():
    x = torch.randn(20, 64, generator=torch.Generator().manual_seed(0))
    values, scale = quantise_fp8(x, ue8m0=True)
    assert torch.equal(scale.log2(), scale.log2().round())
    assert (scale >= quantise_fp8(x)[1]).all()
    assert values.abs().max() <= 448


def test_zeros_stay_zeros():
    assert torch.equal(fake_quantise(torch.zeros(3, 8), "fp8-ue8m0"), torch.zeros(3, 8))


@pytest.mark.parametrize("interleaved", [True, False])
def test_rotation_depends_on_the_distance_only(interleaved):
    angle = torch.arange(40, dtype=torch.float64)[:, None] * torch.tensor([1.0, 0.3, 0.1, 0.01], dtype=torch.float64)
    cos, sin = (torch.cat((f(angle), f(angle)), -1) for f in (torch.cos, torch.sin))
    x, y = torch.randn(2, 1, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64).expand(2, 40, 12)
    a, b = (rotate(t, cos, sin, interleaved=interleaved) for t in (x, y))
    torch.testing.assert_close((a[5:] * b[:-5]).sum(-1), (a[5] * b[0]).sum().expand(35))
    assert torch.equal(a[:, 8:], x[:, 8:])
    assert not torch.equal(a, rotate(x, cos, sin, interleaved=not interleaved))


def test_hadamard_is_orthogonal():
    x = torch.eye(16, dtype=torch.float64)
    matrix = hadamard(x)
    torch.testing.assert_close(matrix @ matrix.T, x)
    torch.testing.assert_close(matrix.abs(), torch.full_like(x, 0.25))
    with pytest.raises(ValueError, match="power of two of channels, not 48"):
        hadamard(torch.zeros(2, 48))


def test_hadamard_leaves_the_scores():
    indexer = LightningIndexer(24, 20, num_heads=4, head_dim=32).double()
    x, q_resid = torch.randn(30, 24, dtype=torch.float64), torch.randn(30, 20, dtype=torch.float64)
    cos, sin = torch.ones(30, 8, dtype=torch.float64), torch.zeros(30, 8, dtype=torch.float64)
    plain = index_scores(*indexer(x, q_resid, cos, sin))
    indexer.rotate_hadamard = True
    operands = indexer(x, q_resid, cos, sin)
    torch.testing.assert_close(index_scores(*operands), plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_flat_search_of_packed_sequences(dtype):
    q, k, weights = packed(40, 130, dtype=dtype)
    ks = torch.tensor([0] * 20 + [57] * 20)
    ke = ks + torch.arange(40)  # the first window is empty
    found = lightning_index(q, k, weights, top_k=11, ks=ks, ke=ke)
    assert found.shape == (40, 11)
    scores = index_scores(q.double(), k.double(), weights.double())
    for row, lo, hi, chosen in zip(scores, ks.tolist(), ke.tolist(), found.tolist(), strict=True):
        assert {i for i in chosen if i >= 0} == best(row[lo:hi].tolist(), 11)
        assert chosen == sorted(i for i in chosen if i >= 0) + [-1] * chosen.count(-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("coarse_dtype", ["fp32", "bf16"])
def test_hierarchical_search_of_packed_sequences(dtype, coarse_dtype):
    q, k, weights = packed(60, 333, dtype=dtype)
    ks = torch.tensor([0] * 30 + [95] * 30)
    ke = ks + torch.linspace(0, 230, 60).long()
    ke[30:33] = torch.tensor([95, 90, 96])  # empty, turned round, one token
    params = {"block_size": 16, "top_blocks": 4}
    found = hisa_index(q, k, weights, top_k=37, ks=ks, ke=ke, coarse_dtype=coarse_dtype, **params)
    coarse = block_scores(
        q, pool_blocks(k, 16).keys, weights, ks, ke, block_size=16, coarse_dtype=coarse_dtype
    ).tolist()  # fmt: skip
    scores = index_scores(q.double(), k.double(), weights.double())
    for t, chosen in enumerate(found.tolist()):
        blocks = best(coarse[t], 4)
        lo, hi = int(ks[t]), int(ke[t])
        row = [s if i // 16 in blocks and lo <= i < hi else -torch.inf for i, s in enumerate(scores[t].tolist())]
        assert {i + lo for i in chosen if i >= 0} == best(row, 37)


def test_ties_at_zero_take_the_earliest_tokens():
    q, k = torch.ones(1, 1, 4), -torch.ones(50, 4)
    k[30] = 1
    found = lightning_index(q, k, torch.ones(1, 1), top_k=4)
    assert found.tolist() == [[0, 1, 2, 30]]
    found = hisa_index(q, k, torch.ones(1, 1), top_k=4, block_size=8, top_blocks=7)
    assert found.tolist() == [[0, 1, 2, 30]]


def test_negative_weights_may_choose_anything_but_the_hidden():
    q, k = torch.ones(1, 1, 4), torch.arange(1.0, 9.0)[:, None].expand(8, 4)
    found = lightning_index(q, k, -torch.ones(1, 1), top_k=3, ks=torch.tensor([2]), ke=torch.tensor([7]))
    assert found.tolist() == [[0, 1, 2]]
    found = lightning_index(q, k, -torch.ones(1, 1), top_k=6, ks=torch.tensor([2]), ke=torch.tensor([7]))
    assert found.tolist() == [[0, 1, 2, 3, 4, -1]]


def test_windows_are_checked():
    q, k, weights = packed(5, 9)
    with pytest.raises(ValueError, match="leave the 9 tokens"):
        lightning_index(q, k, weights, ks=torch.zeros(5, dtype=torch.int64), ke=torch.full((5,), 10))
    with pytest.raises(ValueError, match=r"weights \[M, H\]"):
        hisa_index(q, k, weights[:, :2])
    with pytest.raises(ValueError, match="5 queries but 4 keys"):
        lightning_index(q, k[:4], weights)
    with pytest.raises(ValueError, match="one entry per query"):
        lightning_index(q, k, weights, ke=torch.tensor([3]))
    with pytest.raises(ValueError, match="choose at least one token"):
        lightning_index(q, k, weights, top_k=0)


@settings(deadline=None, max_examples=40)
@given(pieces=st.lists(st.integers(0, 40), max_size=8), block_size=st.integers(1, 17))
def test_pooling_piece_by_piece(pieces, block_size):
    k = torch.randn(sum(pieces), 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pool = IncrementalPool(k[:0], block_size)
    for piece in k.split(pieces):
        pool.append(piece)
    expected = [block.mean(0) for block in k.split(block_size)] if len(k) else []
    torch.testing.assert_close(pool.mean, torch.stack(expected) if expected else k)


def test_block_scores_force_first_and_last():
    q, k, weights = packed(3, 50)
    ks, ke = torch.tensor([0, 17, 20]), torch.tensor([50, 33, 20])
    scores = block_scores(q, pool_blocks(k, 8).keys, weights, ks, ke, block_size=8)
    assert torch.isposinf(scores).tolist() == [
        [True, False, False, False, False, False, True],
        [False, False, True, False, True, False, False],
        [False] * 7,
    ]
    assert torch.isneginf(scores).sum(1).tolist() == [0, 4, 7]


def test_bf16_block_scores_tie_more_often():
    q, k, weights = packed(3, 400)
    ks, ke = torch.zeros(3, dtype=torch.int64), torch.full((3,), 400)
    exact, rounded = (
        block_scores(q, pool_blocks(k, 8).keys, weights, ks, ke, block_size=8, coarse_dtype=dtype)
        for dtype in ("fp32", "bf16")
    )
    assert torch.equal(rounded, exact.bfloat16().float())
    assert not torch.equal(rounded, exact)


def test_iou():
    a = torch.tensor([[0, 1, 2, -1], [5, 6, 7, 8], [-1, -1, -1, -1]])
    b = torch.tensor([[1, 2, 3, -1, -1], [5, 6, 7, 8, -1], [-1, -1, -1, -1, -1]])
    assert index_iou(a, b).tolist() == [0.5, 1.0, 1.0]


def test_a_query_without_tokens_gets_zeros():
    q, k, v = random_qkv((1, 2, 1, 3, 9, 32))
    index = torch.full((1, 1, 3, 4), -1, dtype=torch.int32)
    index[0, 0, 1, 2] = 5
    out = sparse_topk_attention(q, k, v, index)
    assert torch.equal(out[:, :, [0, 2]], torch.zeros(1, 2, 2, 32))
    torch.testing.assert_close(out[0, :, 1], v[0, 0, 5].expand(2, 32))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rows", [1, 40])
def test_short_lists_of_a_long_cache(dtype, rows):
    """Of other dtypes than float32 the kernel converts the keys that are named, or all where that is less."""
    q, k, v = random_qkv((2, 4, 2, rows, 300, 40), dtype)
    index = torch.randint(0, 300, (2, 2, rows, 20), generator=torch.Generator().manual_seed(0)).sort(-1).values
    index[0, 0, 0] = -1
    index = torch.where(index.diff(dim=-1, prepend=index[..., :1] - 1) == 0, -1, index).to(torch.int32)
    out = sparse_topk_attention(q, k, v, index)
    truth = sparse_topk_attention(*(x.double() for x in (q, k, v)), index)
    assert (out.double() - truth).abs().max() <= 2**-8 * truth.abs().max()


def test_token_lists_in_any_order():
    q, k, v = random_qkv((1, 2, 1, 3, 9, 32))
    index = torch.tensor([[4, -1, 2, 7], [0, 1, -1, -1], [8, 3, 5, 1]], dtype=torch.int32)[None, None]
    ordered = torch.tensor([[2, 4, 7, -1], [0, 1, -1, -1], [1, 3, 5, 8]], dtype=torch.int32)[None, None]
    assert torch.equal(sparse_topk_attention(q, k, v, index), sparse_topk_attention(q, k, v, ordered))


def test_token_lists_are_checked():
    q, k, v = random_qkv((1, 2, 1, 3, 9, 32))
    with pytest.raises(ValueError, match="one list per key/value head and query"):
        sparse_topk_attention(q, k, v, torch.zeros(1, 2, 3, 4, dtype=torch.int32))
    with pytest.raises(ValueError, match="token 9, but there are 9 keys"):
        sparse_topk_attention(q, k, v, torch.full((1, 1, 3, 4), 9, dtype=torch.int32))
