"""Products of queries with candidate blocks: every way that a CPU may take, against plain products."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from qkv import random_qkv

from attn.core.attention import attention
from attn.core.attention.indexer.products_cpu import BlockProducts, KeyBlocks
from attn.core.attention.indexer.search import hisa_index, lightning_index
from attn.core.attention.tile_cpu import multiplies_pairs
from attn.core.cpu import cpu, cpu_as

CPUS = {
    "all it can": {},
    "no bfloat16": {"avx512_bf16": False, "amx_bf16": False},
    "AVX2": {"avx512": False, "avx512_bf16": False, "amx_bf16": False},
}


def on(kind):
    return cpu_as(dataclasses.replace(cpu(), **CPUS[kind]))


@pytest.mark.parametrize("kind", CPUS)
@settings(deadline=None, max_examples=15)
@given(
    rows=st.integers(1, 20), heads=st.integers(1, 3), tokens=st.integers(1, 150), dim=st.integers(1, 40),
    size=st.integers(1, 70), dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_products_are_those_of_float32(kind, rows, heads, tokens, dim, size, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(n, dim, generator=generator).to(dtype) for n in (rows * heads, tokens))
    count = -(-tokens // size)
    blocks = torch.stack([torch.randperm(count, generator=generator).sort().values for _ in range(rows)])
    counts = torch.randint(0, count + 1, (rows,), generator=generator)
    with on(kind):
        keys = KeyBlocks(k, size)
        found = BlockProducts(keys, rows=rows, heads=heads, width=count).compute(
            q.view(rows, heads, dim), blocks.int().numpy(), counts.int().numpy()
        )
    assert keys.pairs == (kind == "all it can" and dtype == torch.bfloat16 and multiplies_pairs())
    truth = q.double() @ torch.nn.functional.pad(k.double(), (0, 0, 0, count * size - tokens)).T
    truth = truth.view(rows * heads, count, size)
    for row in range(rows * heads):
        for s in range(int(counts[row // heads])):
            ours = torch.from_numpy(found[row, s, :size]).double()
            torch.testing.assert_close(ours, truth[row, blocks[row // heads, s]], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", CPUS)
@pytest.mark.parametrize("heads", [1, 3])
def test_bfloat16_chooses_what_float32_chooses(kind, heads):
    """The same numbers in a wider dtype: only sums in another order may part two keys that score all but the same."""
    generator = torch.Generator().manual_seed(1)
    q, k = (torch.randn(n, 64, generator=generator).bfloat16() for n in (200 * heads, 900))
    weights = torch.rand(200, heads, generator=generator)
    operands = q.view(200, heads, 64), k, weights
    wide = tuple(x.float() for x in operands)
    with on(kind):
        assert torch.equal(lightning_index(*operands, top_k=100), lightning_index(*wide, top_k=100))
        hierarchical = {"top_k": 100, "block_size": 32, "top_blocks": 8}
        assert torch.equal(hisa_index(*operands, **hierarchical), hisa_index(*wide, **hierarchical))


@pytest.mark.parametrize("kind", CPUS)
@pytest.mark.parametrize("name", ["dsa", "hisa"])
def test_operators_on_every_cpu(kind, name):
    params = {"top_k": 40} | ({"block_size": 32, "top_blocks": 4} if name == "hisa" else {})
    q, k, v = random_qkv((1, 4, 2, 300, 300, 64), torch.bfloat16)
    truth = attention(name, *(x.double() for x in (q, k, v)), causal=True, backend="reference", **params)
    with on(kind):
        out = attention(name, q, k, v, causal=True, **params)
    assert (out.double() - truth).abs().max() <= 2**-8 * truth.abs().max()  # the rounding of the result


def test_without_compiled_instructions_there_are_no_pairs(monkeypatch):
    """numba may be told to compile for a lesser processor than this one: an instruction of this one would be fatal."""
    monkeypatch.setattr("attn.core.attention.tile_cpu.target_has", lambda feature: False)
    assert not KeyBlocks(torch.ones(3, 4, dtype=torch.bfloat16), 2).pairs


def test_queries_and_keys_of_one_dtype():
    q, k = torch.ones(3, 1, 8), torch.ones(5, 8, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"q is torch.float32 and k is torch.bfloat16; pass one dtype"):
        lightning_index(q, k, torch.ones(3, 1))


def test_a_query_without_candidates():
    keys = KeyBlocks(torch.ones(40, 8), 16)
    found = BlockProducts(keys, rows=2, heads=1, width=3)
    found.compute(torch.ones(2, 1, 8), np.array([[-1, -1, -1], [0, 2, -1]], np.int32), np.array([0, 2], np.int32))
    assert found.starts.tolist()[:3] == [1, 1, 2]
