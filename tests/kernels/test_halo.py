"""Halo attention in Triton against the equations in float64: values, gradients of everything, the network it is for."""

from __future__ import annotations

import pytest
import torch
from qkv import assert_near_truth

from attn.core.attention import attention
from attn.core.attention.halo import attend_triton
from attn.core.attention.halo.operator import Settings, reference
from attn.core.choose import choices
from attn.kernels import halo

NAMES = ["halo_forward_kernel", "halo_backward_q_kernel", "halo_backward_kv_kernel"]
CASES = {  # batch, heads, key heads, grid, D, Dv, settings, whether with tables of positions
    "one-block": (1, 1, 1, (4, 4), 16, 16, {"block_size": 4, "halo": 1}, True),
    "heads-in-groups": (2, 2, 1, (4, 6), 16, 24, {"block_size": 2, "halo": 2, "scale_pos": True}, True),
    "border-left-out": (1, 1, 1, (6, 4), 24, 16, {"block_size": 2, "halo": 1, "mask_border": True}, False),
    "blocks-past-the-map": (1, 2, 2, (5, 7), 16, 16, {"block_size": 4, "halo": 3, "pad": True}, True),
}


@pytest.fixture
def kernels(device, monkeypatch):
    """The chooser takes the kernels, as on a GPU."""
    if device.type == "cpu":
        monkeypatch.setattr(attend_triton, "needs_triton", lambda _: None)
    return device


def drawn(case, device, dtype):
    batch, heads, kv_heads, (height, width), dim, value_dim, settings, tables = case
    generator, tokens = torch.Generator().manual_seed(0), height * width
    sizes = [
        (batch, heads, tokens, dim), (batch, kv_heads, tokens, dim), (batch, kv_heads, tokens, value_dim),
        (batch, heads, tokens, value_dim),
    ]  # fmt: skip
    if tables:
        sizes += [(2 * (settings["block_size"] + 2 * settings["halo"]) - 1, dim)] * 2
    return [torch.randn(*size, generator=generator).to(device, dtype) for size in sizes]


@pytest.mark.interpret
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("name", CASES)
def test_matches_the_equations_and_every_kernel_is_launched(name, dtype, kernels, launches):
    launched, case = launches(halo, *NAMES), CASES[name]
    q, k, v, grad, *tables = drawn(case, kernels, dtype)
    rows = []
    for run in ("triton", "eager", "truth"):
        wanted = torch.float64 if run == "truth" else dtype
        leaves = [x.detach().to(wanted).requires_grad_() for x in (q, k, v, *tables)]
        options = case[6] | dict(zip(("height_rel", "width_rel"), leaves[3:], strict=False))
        if run == "triton":
            with choices() as taken:
                out = attention("halo", *leaves[:3], causal=False, grid=case[3], **options)
            assert [formulation.backend for _, formulation in taken] == ["triton"]
        else:
            out = reference(*leaves[:3], grid=case[3], settings=Settings(**options))
        rows.append([out.detach(), *torch.autograd.grad((out * grad.to(wanted)).sum(), leaves)])
    assert launched == NAMES
    for part, *found in zip(("out", "dq", "dk", "dv", "dheight", "dwidth"), *rows, strict=False):
        assert_near_truth(*found, f"{part} of {name}")


@pytest.mark.interpret
def test_repeating_gives_the_same_bits(kernels):
    case = CASES["heads-in-groups"]
    q, k, v, grad, *tables = drawn(case, kernels, torch.float32)
    results = []
    for _ in range(2):
        leaves = [x.detach().requires_grad_() for x in (q, k, v, *tables)]
        out = attention(
            "halo", *leaves[:3], causal=False, grid=case[3], **case[6], height_rel=leaves[3], width_rel=leaves[4]
        )
        results.append([out, *torch.autograd.grad((out * grad).sum(), leaves)])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.interpret
def test_a_cell_that_is_no_number_spoils_who_sees_it_and_nothing_else(kernels):
    q, k, v, _ = drawn(CASES["border-left-out"], kernels, torch.float32)
    v[0, 0, 0] = torch.nan  # the first cell: of the four blocks in a row and column, the window of the first sees it
    out = attention("halo", q, k, v, causal=False, grid=(6, 4), block_size=2, halo=1)
    spoilt = out[0, 0].isnan().any(1).view(6, 4)
    assert spoilt[:2, :2].all()
    assert not spoilt[2:].any()
    assert not spoilt[:, 2:].any()


def test_what_is_not_taken_is_refused_in_one_line():
    q = torch.zeros(1, 4, 256)
    assert halo.refuses(q, 16, 14) == "takes heads of up to 128 channels, not 256"
    assert halo.refuses(q[..., :16], 16, 80) == "takes windows of up to 64 cells a side, not 80"
    assert halo.refuses(q.double(), 16, 14) == "takes float32, bfloat16 and float16, not torch.float64"
    with pytest.raises(ValueError, match=r"halo attention in Triton takes heads of up to 128 channels, not 256\.$"):
        halo.attend(q, q[None], q[None], q.new_empty(0), q.new_empty(0), [1, 1, 2, 0, 2, 2, 2], 1.0, False)
