"""Bi-level routing attention on the kernels over blocks: values and gradients against the equations in float64."""

from __future__ import annotations

import pytest
import torch
from qkv import assert_near_truth

from attn.core.attention import attention
from attn.core.attention.blocks import runs_triton
from attn.core.attention.bra.attend import ATTEND
from attn.core.attention.bra.operator import OPERATOR, Settings, reference
from attn.core.choose import choices
from attn.kernels import blocks

CASES = [(1, 2, 2, (6, 6), 16, 16, 3, 2), (2, 2, 1, (6, 9), 16, 24, 3, 4), (1, 1, 1, (5, 7), 32, 16, 2, 1)]
"""Batch, heads, key heads, grid, D, Dv, n_win, topk: a group; regions that are no squares; padding as keys."""


@pytest.fixture
def kernels(device, monkeypatch):
    """The chooser takes the kernels, as on a GPU."""
    if device.type == "cpu":
        monkeypatch.setattr(runs_triton, "refuses", lambda q, k, v, *_, **__: blocks.refuses(q, k, v))
    return device


def drawn(case, device, dtype=torch.float32):
    batch, heads, kv_heads, grid, dim, value_dim, *_ = case
    generator = torch.Generator().manual_seed(0)
    tokens = grid[0] * grid[1]
    sizes = (heads, tokens, dim), (kv_heads, tokens, dim), (kv_heads, tokens, value_dim), (heads, tokens, value_dim)
    return [torch.randn(batch, *size, generator=generator).to(device, dtype) for size in sizes]


@pytest.mark.interpret
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_the_equations_and_every_kernel_is_launched(case, dtype, kernels, launches):
    names = ["blocks_forward_kernel", "blocks_backward_q_kernel", "blocks_backward_kv_kernel"]
    launched = launches(blocks, *names)
    grid, settings = case[3], Settings(n_win=case[6], topk=case[7], pad=True)
    inputs, grad = (given := drawn(case, kernels, dtype))[:3], given[3]
    rows = []
    for run in ("triton", "eager", "truth"):
        leaves = [x.detach().to(torch.float64 if run == "truth" else dtype).requires_grad_() for x in inputs]
        if run == "triton":
            with choices() as taken:
                out = attention("bra", *leaves, causal=False, grid=grid, n_win=case[6], topk=case[7], pad=True)
            assert "triton" in [formulation.backend for _, formulation in taken]
        else:
            out = reference(*leaves, grid=grid, settings=settings)
        rows.append([out.detach(), *torch.autograd.grad((out * grad.to(out.dtype)).sum(), leaves)])
    assert launched == names
    for name, one, eager, truth in zip(("out", "dq", "dk", "dv"), *rows, strict=True):
        assert_near_truth(one, eager, truth, f"{name} of {case}")


@pytest.mark.interpret
def test_what_is_not_taken_runs_in_torch_and_says_why(kernels):
    q, k, v, _ = drawn(CASES[2], kernels)
    for settings in (
        Settings(n_win=2, topk=1, pad=True, soft_routing=True),
        Settings(2, 1, pad=True, mask_padding=True),
    ):
        selection = OPERATOR.phases[0](q, k, grid=(5, 7), settings=settings)
        kernel = OPERATOR.phases[1].formulations[0]
        assert "\n" not in kernel.refuses(q, k, v, selection, grid=(5, 7), settings=settings)
        with choices() as taken:
            OPERATOR.phases[1](q, k, v, selection, grid=(5, 7), settings=settings)
        assert [formulation.backend for _, formulation in taken] == ["torch"]
    selection = OPERATOR.phases[0](q, k, grid=(5, 7), settings=Settings(n_win=2, topk=1, pad=True))
    assert ATTEND.formulations[0].refuses(q, k, v, selection, scale=1.0) is None
