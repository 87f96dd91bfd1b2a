"""Attention over runs of keys in Triton against softmax attention under the same mask in float64: values, gradients.

Few tokens, many shapes: the interpreter takes milliseconds for each step of each program.
"""

from __future__ import annotations

import pytest
import torch
from qkv import assert_near_truth

from attn.core.attention.blocks import runs_triton, selection
from attn.core.attention.blocks.selection import BlockSelection
from attn.core.attention.dense import Everything
from attn.core.attention.equations import accumulator, causal_mask, repeat_kv
from attn.core.attention.window_sink import BandSelection
from attn.kernels import blocks

CASES = [  # batch, query heads, key heads, queries, keys, width, width of values, queries and keys of a block, causal
    (1, 1, 1, 16, 16, 16, 16, 16, 16, True),
    (1, 2, 1, 37, 37, 32, 16, 16, 16, True),  # a group; a length that no block divides
    (2, 2, 2, 20, 45, 24, 24, 8, 16, True),  # fewer queries than keys; a width that is no power of two
    (1, 3, 1, 33, 50, 16, 40, 32, 32, False),
    (1, 2, 2, 1, 70, 64, 64, 16, 32, True),  # decode
    (1, 1, 1, 70, 20, 16, 16, 16, 16, False),
    (1, 2, 1, 150, 150, 16, 16, 150, 64, True),  # a block of more queries than a program takes
]


def tensors(case, device, dtype=torch.float32, seed=0):
    batch, heads, kv_heads, len_q, len_k, width, value_width = case[:7]
    generator = torch.Generator().manual_seed(seed)
    shapes = [
        (heads, len_q, width),
        (kv_heads, len_k, width),
        (kv_heads, len_k, value_width),
        (heads, len_q, value_width),
    ]
    return [torch.randn(batch, *shape, generator=generator).to(device, dtype) for shape in shapes]


def kept_blocks(case, device, share=0.5, seed=0):
    """A random selection; some query blocks keep nothing, where queries outnumber keys or chance has it."""
    batch, heads, _, len_q, len_k, _, _, block_m, block_n, causal = case
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(batch, heads, -(-len_q // block_m), -(-len_k // block_n), generator=generator) < share
    return BlockSelection.from_mask(
        mask.to(device), block_m=block_m, block_n=block_n, len_q=len_q, len_k=len_k, causal=causal
    )


def eager(q, k, v, mask, scale):
    """``out`` and ``lse`` of softmax attention under ``mask``, dense."""
    scores = (q @ repeat_kv(k, q.shape[1]).mT).to(accumulator(q.dtype)) * scale
    scores = scores.masked_fill(~mask, -torch.inf)
    lse = scores.logsumexp(-1)
    weights = (scores - lse.masked_fill(lse.isinf(), 0.0)[..., None]).exp()
    return weights.to(v.dtype) @ repeat_kv(v, q.shape[1]), lse


def close(out, plain, truth, name):
    """``assert_near_truth`` where the truth is finite; elsewhere neither is."""
    finite = truth.isfinite()
    assert (out.isfinite() == finite).all(), name
    if finite.any():
        assert_near_truth(out[finite], plain[finite], truth[finite], name)


def check(case, q, k, v, grad_out, pattern, mask, scale=0.3):
    kept = runs_triton.runs_of(pattern, q.device)
    out, lse = blocks.forward(q, k, v, kept, scale)
    grad_lse = torch.randn(lse.shape, generator=torch.Generator().manual_seed(7)).to(q.device)
    grad_lse = grad_lse.masked_fill(lse.isinf(), 0.0)
    found = (out, lse, *blocks.backward(q, k, v, out, lse, grad_out, grad_lse, kept, scale))
    rows = []
    for dtype in (q.dtype, torch.float64):
        leaves = [x.detach().to(dtype).requires_grad_() for x in (q, k, v)]
        plain, plain_lse = eager(*leaves, mask, scale)
        loss = (plain * grad_out.to(dtype)).sum() + (plain_lse.masked_fill(plain_lse.isinf(), 0.0) * grad_lse).sum()
        rows.append((plain.detach(), plain_lse.detach(), *torch.autograd.grad(loss, leaves)))
    for name, value, plain, truth in zip(("out", "lse", "grad_q", "grad_k", "grad_v"), found, *rows, strict=True):
        close(value, plain, truth, f"{name} of {case}")
    return found


@pytest.mark.interpret
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_softmax_attention_over_the_kept_blocks(case, device):
    q, k, v, grad_out = tensors(case, device)
    pattern = kept_blocks(case, device)
    check(case, q, k, v, grad_out, pattern, pattern.mask(torch.arange(q.shape[2], device=device)))


@pytest.mark.interpret
def test_half_precision(device):
    case = CASES[1]
    q, k, v, grad_out = tensors(case, device, torch.float16)
    pattern = kept_blocks(case, device)
    found = check(case, q, k, v, grad_out, pattern, pattern.mask(torch.arange(q.shape[2], device=device)))
    assert [x.dtype for x in found] == [torch.float16, torch.float32, *[torch.float16] * 3]


@pytest.mark.interpret
@pytest.mark.parametrize("case", CASES[1:3], ids=str)
def test_bfloat16(case, device, bfloat16):
    q, k, v, grad_out = tensors(case, device, bfloat16)
    pattern = kept_blocks(case, device)
    check(case, q, k, v, grad_out, pattern, pattern.mask(torch.arange(q.shape[2], device=device)))


@pytest.mark.interpret
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("len_q", "len_k"), [(40, 40), (13, 50)])
def test_dense(causal, len_q, len_k, device):
    case = (1, 2, 1, len_q, len_k, 16, 16)
    q, k, v, grad_out = tensors(case, device)
    mask = causal_mask(len_q, len_k, device) if causal else torch.ones(len_q, len_k, dtype=torch.bool, device=device)
    check(case, q, k, v, grad_out, Everything(32, 64, len_q, len_k, causal), mask)


@pytest.mark.interpret
@pytest.mark.parametrize(("window", "num_sinks"), [(5, 0), (20, 4), (1, 1), (100, 3)])
def test_window_and_sinks(window, num_sinks, device):
    case = (1, 2, 2, 45, 60, 16, 16)
    q, k, v, grad_out = tensors(case, device)
    pattern = BandSelection(1, 2, 45, 60, window, num_sinks, 16)
    check(case, q, k, v, grad_out, pattern, pattern.mask(torch.arange(45, device=device)))


@pytest.mark.interpret
def test_a_query_block_without_keys_gives_zeros_and_no_gradient(device):
    case = CASES[1]
    q, k, v, grad_out = tensors(case, device)
    pattern = kept_blocks(case, device, share=0.0)
    out, lse, *gradients = check(case, q, k, v, grad_out, pattern, torch.zeros(37, 37, dtype=torch.bool, device=device))
    assert not out.any()
    assert (lse == -torch.inf).all()
    assert not any(x.any() for x in gradients)


@pytest.mark.interpret
@pytest.mark.parametrize("scale", [-0.5, 0.0, 20.0])
def test_any_scale(scale, device):
    case = CASES[1]
    q, k, v, grad_out = tensors(case, device)
    pattern = Everything(16, 64, 37, 37, True)
    check(case, q, k, v, grad_out, pattern, causal_mask(37, 37, device), scale)


@pytest.mark.interpret
def test_repeating_gives_the_same_bits(device):
    case = CASES[2]
    q, k, v, grad_out = tensors(case, device)
    kept = runs_triton.runs_of(kept_blocks(case, device), device)

    def once():
        out, lse = blocks.forward(q, k, v, kept, 0.3)
        return out, lse, *blocks.backward(q, k, v, out, lse, grad_out, torch.zeros_like(lse), kept, 0.3)

    for first, second in zip(once(), once(), strict=True):
        assert torch.equal(first, second)


@pytest.mark.interpret
def test_nan_is_never_hidden(device):
    """A row that sees a NaN is NaN; one that sees none may be NaN only where the engine computes it again."""
    q, k, v, _ = tensors((1, 1, 1, 20, 20, 16, 16), device)
    k[0, 0, 7, 3] = torch.nan
    out, _ = blocks.forward(q, k, v, runs_triton.runs_of(Everything(16, 64, 20, 20, True), device), 0.3)
    assert out[0, 0, 7:].isnan().all()
    again, _ = runs_triton.forward(q, k, v, Everything(16, 64, 20, 20, True), 0.3)
    assert again[0, 0, :7].isfinite().all()
    assert again[0, 0, 7:].isnan().all()


@pytest.mark.interpret
def test_transposed_lists_hold_every_run_once(device):
    case = CASES[2]
    pattern = kept_blocks(case, device)
    kept = runs_triton.runs_of(pattern, device)
    indptr, pieces = blocks.transposed(kept, 4, 1, pattern.num_q_blocks, 45, 16)
    seen = torch.zeros(4, pattern.num_q_blocks, 45, dtype=torch.int64)
    for tile in range(4 * 3):
        for head, block, low, high in pieces[indptr[tile] : indptr[tile + 1]].tolist():
            assert head == tile // 3
            assert tile % 3 * 16 <= low < high <= min(45, (tile % 3 + 1) * 16)
            seen[head, block, low:high] += 1
    wanted = torch.zeros_like(seen)
    for head in range(4):
        for block in range(pattern.num_q_blocks):
            for start, stop in pattern.spans(head, block):
                wanted[head, block, start:stop] += 1
    assert torch.equal(seen, wanted)


@pytest.mark.interpret
def test_the_engine_launches_the_kernels_and_nothing_else(device, monkeypatch, launches):
    """As on a GPU: what the chooser takes is Triton, forward and backward."""
    launched = launches(blocks, "blocks_forward_kernel", "blocks_backward_q_kernel", "blocks_backward_kv_kernel")
    if device.type == "cpu":
        monkeypatch.setattr(runs_triton, "refuses", lambda q, k, v, *_, **__: blocks.refuses(q, k, v))
    q, k, v, grad_out = (x.requires_grad_() for x in tensors(CASES[1], device))
    engine = next(f for f in selection.ENGINE.formulations if f.backend == "triton")
    out, _ = selection.attend(q, k, v, Everything(16, 64, 37, 37, True), 0.3, engine)
    out.backward(grad_out)
    assert launched == ["blocks_forward_kernel", "blocks_backward_q_kernel", "blocks_backward_kv_kernel"]


@pytest.mark.interpret
def test_what_is_not_taken_is_refused_in_one_line(device):
    q, k, v, _ = tensors(CASES[0], device)
    kept = runs_triton.runs_of(Everything(16, 64, 16, 16, True), device)
    with pytest.raises(
        ValueError, match=r"blocks in Triton takes float32, bfloat16 and float16, not torch\.float64\.$"
    ):
        blocks.forward(q.double(), k.double(), v.double(), kept, 1.0)
    wide = torch.zeros(1, 1, 16, 256, device=device)
    with pytest.raises(ValueError, match=r"takes heads of up to 128 channels in torch\.float32, not 256"):
        blocks.forward(wide, wide, wide, kept, 1.0)
    assert blocks.refuses(wide.half(), wide.half(), wide.half()) is None


def test_tensors_of_the_cpu_are_refused_outside_the_interpreter(interpreted):
    if interpreted:
        pytest.skip("run without TRITON_INTERPRET")
    q = torch.zeros(1, 1, 16, 16)
    assert "takes tensors of a GPU" in blocks.refuses(q, q, q)
    assert runs_triton.refuses(q, q, q) == "takes tensors of a GPU that PyTorch can use, not of cpu"
