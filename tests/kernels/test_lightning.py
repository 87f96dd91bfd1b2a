"""Lightning attention in Triton against the recurrence in float64: values, states, gradients, the golden vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from qkv import assert_near_truth

from attn.core.attention.lightning import block, sweep_triton
from attn.core.attention.lightning.operator import lightning_attention, recurrent
from attn.kernels import lightning

GOLDEN = Path(__file__).parents[1] / "golden" / "vectors" / "lightning"
SLOPES = torch.tensor([0.5, 1e-3, 0.0])
CASES = [(1, 1, 5, 16, 16), (2, 3, 70, 16, 16), (1, 2, 300, 24, 40), (1, 1, 256, 64, 64), (1, 3, 1, 32, 16)]
"""Batch, heads, tokens, D, Dv: shorter than a step, several steps, two chunks, exactly one, a single token."""


@pytest.fixture
def kernels(device):
    """The chooser takes the kernels, as on a GPU."""
    if device.type == "cpu":
        phase = block.SWEEP
        taken = [f for f in phase.formulations if f.backend == "triton"]
        object.__setattr__(taken[0], "refuses", lambda q, k, v, *_, **__: lightning.refuses(q, v))
        yield device
        object.__setattr__(taken[0], "refuses", sweep_triton.refuses)
    else:
        yield device


def tensors(case, device, seed=0):
    batch, heads, length, dim, value_dim = case
    generator = torch.Generator().manual_seed(seed)
    sizes = (length, dim), (length, dim), (length, value_dim), (dim, value_dim), (length, value_dim)
    return [torch.randn(batch, heads, *size, generator=generator).to(device) for size in sizes]


@pytest.mark.interpret
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_the_recurrence(case, kernels):
    q, k, v, state, grad = tensors(case, kernels)
    slope = SLOPES[: case[1]].to(kernels)
    rows = []
    for run, dtype in [("triton", torch.float32), ("eager", torch.float32), ("eager", torch.float64)]:
        leaves = [x.detach().to(dtype).requires_grad_() for x in (q, k, v, state)]
        if run == "triton":
            out, last = lightning_attention(*leaves[:3], slope, state=leaves[3], return_state=True, backend="triton")
        else:
            out, last = recurrent(*leaves[:3], slope.to(dtype), leaves[3])
        loss = (out * grad.to(dtype)).sum() + (last * 0.3).sum()
        rows.append([out.detach(), last.detach(), *torch.autograd.grad(loss, leaves)])
    for name, found, eager, truth in zip(("out", "state", "dq", "dk", "dv", "dstate"), *rows, strict=True):
        assert_near_truth(found, eager, truth, f"{name} of {case}", floor=1e-5)


@pytest.mark.interpret
@pytest.mark.parametrize("reverse", [False, True])
def test_bfloat16(reverse, device, bfloat16):
    """Against the quadratic form, its scores and weights rounded as often."""
    q, k, v, state, _ = tensors((1, 2, 70, 32, 16), device)
    q, k, v = (x.to(bfloat16) for x in (q, k, v))
    slope, at = SLOPES[:2].to(device), torch.arange(70, device=device)
    out, last = lightning.sweep(q, k, v, slope, state, reverse)
    distance = (at[None, :] - at[:, None]) if reverse else (at[:, None] - at[None, :])
    before = 69 - at if reverse else at + 1
    rows = []
    for dtype in (bfloat16, torch.float64):
        lam = torch.exp(-slope.double())[:, None, None]
        fade = torch.where(distance >= 0, lam ** distance.clamp(min=0), 0.0).to(dtype)
        a, b, c, begun = (x.to(dtype) for x in (q, k, v, state))
        rows.append((a @ b.mT * fade) @ c + (a * (lam ** before[:, None]).to(dtype)) @ begun)
    assert out.dtype == bfloat16
    assert last.dtype == torch.float32
    assert_near_truth(out, *rows, f"reverse {reverse}", floor=1e-5)


@pytest.mark.interpret
@pytest.mark.parametrize("stem", ["op_l0", "op_l12_ragged", "op_lastlayer_6heads"])
def test_golden_vectors(stem, kernels):
    data = np.load(GOLDEN / f"{stem}.npz")
    q, k, v = (torch.from_numpy(data[name]).to(kernels).requires_grad_() for name in ("q", "k", "v"))
    slope = torch.from_numpy(data["slope"]).to(kernels)
    out, state = lightning_attention(q, k, v, slope, return_state=True, backend="triton")
    np.testing.assert_allclose(out.detach().cpu(), data["out"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(state.detach().cpu(), data["state"], rtol=1e-5, atol=1e-5)
    grads = torch.autograd.grad(out, (q, k, v), torch.from_numpy(data["do"]).to(kernels))
    for grad, name in zip(grads, ("dq", "dk", "dv"), strict=True):
        np.testing.assert_allclose(grad.cpu(), data[name], rtol=0, atol=2e-5)


@pytest.mark.interpret
def test_a_token_that_is_no_number_spoils_what_sees_it_and_nothing_else(kernels):
    q, k, v, _, _ = tensors((1, 1, 40, 16, 16), kernels)
    v[0, 0, 20] = torch.inf
    out = lightning_attention(q, k, v, SLOPES[:1].to(kernels), backend="triton")
    assert out[0, 0, :20].isfinite().all()
    assert not out[0, 0, 20:].isfinite().any()


@pytest.mark.interpret
def test_every_kernel_is_launched_and_repeating_gives_the_same_bits(kernels, launches):
    launched = launches(lightning, "lightning_states_kernel", "lightning_scan_kernel", "lightning_attend_kernel")
    q, k, v, state, _ = tensors((1, 2, 300, 16, 16), kernels)
    first = lightning.sweep(q, k, v, SLOPES[:2].to(kernels), state, reverse=True)
    assert launched == ["lightning_states_kernel", "lightning_scan_kernel", "lightning_attend_kernel"]
    second = lightning.sweep(q, k, v, SLOPES[:2].to(kernels), state, reverse=True)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.interpret
def test_what_is_not_taken_is_refused_in_one_line(device):
    q = torch.zeros(1, 1, 4, 16, device=device)
    state, slope = torch.zeros(1, 1, 16, 16, device=device), torch.zeros(1, device=device)
    with pytest.raises(
        ValueError, match=r"lightning attention in Triton takes float32 and bfloat16, not torch\.float16\.$"
    ):
        lightning.sweep(q.half(), q.half(), q.half(), slope, state)
    wide = torch.zeros(1, 1, 4, 256, device=device)
    assert lightning.refuses(wide, wide) == "takes heads of up to 128 channels, not 256"
    assert sweep_triton.refuses(q, q.half(), q, slope, state, 64) is not None
