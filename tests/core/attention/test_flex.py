"""FlexAttention behind the contract: the same result as window+sink, and what it cannot do said plainly."""

from __future__ import annotations

import pytest
import torch
from qkv import DTYPES, SHAPES, assert_as_accurate_as_eager, random_qkv

from attn.core.attention import attention, flex, window_sink
from attn.core.attention.contract import Shape
from attn.core.attention.equations import positions


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [*SHAPES, (1, 2, 1, 300, 500, 32)], ids=str)
def test_as_accurate_as_eager(shape, dtype):
    q, k, v = random_qkv(shape, dtype)
    out = attention("flex", q, k, v, causal=True, window=100, num_sinks=3)
    assert_as_accurate_as_eager(out, flex.OPERATOR.reference, q, k, v, window=100, num_sinks=3)


@pytest.mark.parametrize(("len_q", "len_k"), [(500, 500), (129, 700), (1, 300), (128, 128)])
def test_key_blocks_are_those_with_a_visible_pair(len_q, len_k):
    counts, indices = flex.key_blocks(len_q, len_k, window=150, num_sinks=130)
    seen = window_sink.visible(positions(len_q, len_k), torch.arange(len_k), 150, 130)
    for i, count in enumerate(counts.tolist()):
        rows = seen[i * 128 : (i + 1) * 128].any(0)
        expected = [j for j in range(-(-len_k // 128)) if rows[j * 128 : (j + 1) * 128].any()]
        assert indices[i, :count].tolist() == expected


def test_long_sequences_want_the_compiler():
    q = torch.empty(1, 1, 8193, 8)
    with pytest.raises(ValueError, match=r"all 8193 x 8193 scores at once\. Pass compile=True"):
        attention("flex", q, q, q, causal=True)


def test_compiling_without_a_compiler_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    q, k, v = random_qkv((1, 1, 1, 16, 16, 8))
    with pytest.raises(ValueError, match=r"no.*no-such-compiler\. Install g\+\+ or clang\+\+"):
        attention("flex", q, k, v, causal=True, compile=True)


def test_sizes_are_checked():
    q, k, v = random_qkv((1, 1, 1, 16, 16, 8))
    with pytest.raises(ValueError, match="window 0 must be at least 1"):
        attention("flex", q, k, v, causal=True, window=0)


def test_cost_counts_blocks_when_compiled_and_everything_when_not():
    shape = Shape(1, 2, 2, 1024, 1024, 64, 64, True)
    assert flex.OPERATOR.cost(shape).flops == 4 * 64 * 2 * 1024 * 1024
    blocks = 8 + 7  # the diagonal and the one before it; the sinks' block is among them or the first
    blocks += 6
    assert flex.OPERATOR.cost(shape, window=128, compile=True).flops == 4 * 64 * 2 * blocks * 128 * 128
