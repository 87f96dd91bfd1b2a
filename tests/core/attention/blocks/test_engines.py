"""What the operators over blocks run on, by processor: the same result, the same rules, on any machine."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from other_cpus import PROCESSORS
from qkv import assert_as_accurate_as_eager, random_qkv, threads
from small_operators import arguments

from attn.core.attention import attention
from attn.core.attention.blocks.selection import ENGINE, BlockSelection, attend_blocks
from attn.core.attention.equations import causal_mask, masked_attention
from attn.core.attention.registry import OPERATORS
from attn.core.choose import Formulation, choose
from attn.core.cpu import cpu_as

NAMES = ("dense", "window+sink", "blocktopk", "flux", "rectified")
GATHERED = next(x for x in ENGINE.formulations if x.name == "blocks of PyTorch's attention")


@pytest.fixture(params=["avx2", "intel", "amx"])
def processor(request: pytest.FixtureRequest) -> Any:
    with cpu_as(PROCESSORS[request.param]):
        yield request.param


def on(name: str, *shape: int, dtype: torch.dtype, **options: Any) -> str:
    """Which formulation attends."""
    *_, attend = OPERATORS[name].resolve().phases
    return choose(attend, random_qkv(shape, dtype), **options).name


@pytest.mark.parametrize(
    ("processor", "dtype", "dense", "sparse"),
    [
        ("amd", torch.bfloat16, "block by block, numba", "block by block, numba"),
        ("avx2", torch.float32, "block by block, numba", "block by block, numba"),
        ("intel", torch.bfloat16, "PyTorch's attention", "block by block, numba"),
        ("amx", torch.float32, "PyTorch's attention", "block by block, numba"),
        ("amx", torch.bfloat16, "PyTorch's attention", "blocks of PyTorch's attention"),
    ],
    indirect=["processor"],
)
def test_which_runs_where(processor: str, dtype: torch.dtype, dense: str, sparse: str) -> None:
    shape = (1, 2, 1, 64, 4096, 32)
    assert on("dense", *shape, dtype=dtype) == dense
    assert on("dense", 1, 2, 1, 64, 511, 32, dtype=dtype) == "PyTorch's attention"
    assert on("window+sink", *shape, dtype=dtype) == sparse
    assert on("window+sink", 1, 2, 1, 1, 64, 32, dtype=dtype) == "block by block, numba"  # a decode step has one query
    assert on("dense", 1, 2, 1, 1, 600, 32, dtype=torch.float32) == "PyTorch's attention"
    assert on("dense", *shape, dtype=torch.float64) == "block by block, torch"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("queries", [140, 90])
def test_as_accurate_as_the_equations(processor: str, name: str, dtype: torch.dtype, queries: int) -> None:
    operator = OPERATORS[name].resolve()
    keys = 200 if queries == 90 and operator.decodes else queries
    shape = (2, 4, 2, 140, keys, 48) if queries == 140 else (1, 2, 1, queries, keys, 64)
    q, k, v = random_qkv(shape, dtype)
    options = arguments(name)
    wide = tuple(x.float() for x in (q, k, v))  # keys are chosen from these by all
    truth = attention(name, *wide, **options)
    out = attention(name, q, k, v, **options)
    eager = operator.reference(q, k, v, scale=None, **options).float()
    assert (out.float() - truth).abs().max() <= 2 * (eager - truth).abs().max() + 1e-5


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("which", "qkv")
def test_nan_is_in_the_rows_that_see_it(processor: str, name: str, which: str) -> None:
    tensors = dict(zip("qkv", random_qkv((1, 2, 1, 200, 200, 32), torch.bfloat16), strict=True))
    for value in (torch.nan, torch.inf):
        tensors[which][0, 0, 120, 5] = value
        q, k, v = tensors.values()
        bad = [
            ~attention(name, q, k, v, backend=backend, **arguments(name)).isfinite().all(-1)
            for backend in ("auto", "reference")
        ]
        assert torch.equal(*bad)


def _pattern(shape: tuple[int, ...], block_m: int, block_n: int, causal: bool) -> tuple[BlockSelection, torch.Tensor]:
    batch, heads, _, len_q, len_k, _ = shape
    kept = torch.rand(batch, heads, -(-len_q // block_m), -(-len_k // block_n), generator=torch.manual_seed(1)) < 0.4
    kept[0, 0, 0] = False  # a block without keys
    tokens = kept.repeat_interleave(block_m, 2)[:, :, :len_q].repeat_interleave(block_n, 3)[..., :len_k]
    if causal:
        tokens = tokens & causal_mask(len_q, len_k)
    sizes = {"block_m": block_m, "block_n": block_n, "len_q": len_q, "len_k": len_k}
    return BlockSelection.from_mask(kept, causal=causal, **sizes), tokens


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("dim", "value_dim"), [(64, 64), (33, 17)])
def test_blocks_of_pytorchs_attention(causal: bool, dtype: torch.dtype, dim: int, value_dim: int) -> None:
    shape = (1, 4, 2, 210, 260, dim)
    q, k, v = random_qkv(shape, dtype)
    v = v[..., :value_dim]
    selection, tokens = _pattern(shape, 20, 12, causal)
    out, lse = attend_blocks(q, k, v, selection, return_lse=True, engine=GATHERED)
    assert_as_accurate_as_eager(out, lambda q, k, v: masked_attention(q, k, v, tokens), q, k, v)
    scores = q.double() @ k.double().repeat_interleave(2, 1).mT * dim**-0.5
    truth = scores.masked_fill(~tokens, -torch.inf).logsumexp(-1)
    torch.testing.assert_close(lse.double(), truth, rtol=1e-3, atol=1e-3)
    assert not out[~tokens.any(-1)].any()


def test_bits_depend_neither_on_threads_nor_on_layout() -> None:
    shape = (1, 4, 2, 200, 600, 64)
    q, k, v = random_qkv(shape, torch.bfloat16)
    selection, _ = _pattern(shape, 32, 16, True)
    outs = []
    for count in (1, 2, 3):
        with threads(count):
            outs.append(attend_blocks(q, k, v, selection, engine=GATHERED))
    strided = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    outs.append(attend_blocks(*strided, selection, engine=GATHERED))
    assert all(torch.equal(out, outs[0]) for out in outs[1:])


@pytest.mark.parametrize("name", ["dense", "window+sink"])
def test_gradients(processor: str, name: str) -> None:
    def gradients(dtype: torch.dtype, **way: Any) -> list[torch.Tensor]:
        leaves = [x.to(dtype).requires_grad_() for x in random_qkv((1, 4, 2, 90, 90, 32), torch.bfloat16)]
        out = attention(name, *leaves, **arguments(name), **way)
        return [x.double() for x in torch.autograd.grad(out.double().square().sum(), leaves)]

    truth, eager = (gradients(dtype, backend="reference") for dtype in (torch.float64, torch.bfloat16))
    for ours, plain, exact in zip(gradients(torch.bfloat16), eager, truth, strict=True):
        assert (ours - exact).abs().max() <= 2 * (plain - exact).abs().max() + 1e-5


def test_fewer_queries_than_keys_are_handed_over_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attn.core.attention.blocks.sdpa_cpu._MASK_ENTRIES", 1 << 12)
    q, k, v = random_qkv((1, 4, 2, 90, 300, 32))
    with cpu_as(PROCESSORS["intel"]):
        out = attention("dense", q, k, v, causal=True)
    torch.testing.assert_close(out, masked_attention(q, k, v, causal_mask(90, 300)))


def test_the_engine_is_a_formulation_like_others() -> None:
    assert isinstance(GATHERED, Formulation)
    q, k, _ = random_qkv((1, 1, 1, 64, 64, 32))
    with cpu_as(PROCESSORS["avx2"]):
        assert "by AMX" in str(GATHERED.refuses(q, k))


@pytest.mark.slow
def test_without_avx512_for_real() -> None:
    """The environment takes it from PyTorch and oneDNN; a process of its own, because both read it once."""
    code = """
import torch
from attn.core.attention import attention
from attn.core.cpu import cpu
assert not cpu().avx512 and not cpu().avx512_bf16, cpu()
q, k, v = (torch.randn(1, 2, 600, 64, dtype=torch.bfloat16) for _ in range(3))
for name in ("dense", "window+sink", "blocktopk", "flux"):
    out, truth = (attention(name, q, k, v, causal=True, backend=way).float() for way in ("auto", "reference"))
    assert (out - truth).abs().max() < 0.05, name
"""
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
