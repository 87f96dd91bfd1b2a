"""Efficient probing in Triton against two products in float64: what is pooled, the maps, gradients; inside the head."""

from __future__ import annotations

import pytest
import torch
from qkv import assert_near_truth

from attn.core.choose import choices
from attn.core.nets.poolings import ep
from attn.core.nets.poolings.contract import TokenShape
from attn.kernels import probing

NAMES = ("probing_maps_kernel", "probing_gather_kernel")
CASES = [(2, 3, 70, 72), (1, 40, 5, 16), (3, 1, 64, 130), (1, 16, 1, 64)]
"""Images, queries, tokens, channels: several steps and pieces; more queries than a program's; one query; one token."""


def drawn(case, dtype, device):
    batch, queries, tokens, width = case
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(queries, width, generator=generator).to(device)
    x = torch.randn(batch, tokens, width, generator=generator).to(device, dtype)
    grad = torch.randn(batch, queries, width, generator=generator).to(device)
    return query, x, grad


def with_gradients(run, query, x, grad):
    leaves = [query.detach().requires_grad_(), x.detach().requires_grad_()]
    pooled, maps = run(*leaves)
    return [pooled.detach(), maps.detach(), *torch.autograd.grad((pooled * grad.to(pooled.dtype)).sum(), leaves)]


def holds(dtype, case, device):
    query, x, grad = drawn(case, dtype, device)
    found = with_gradients(probing.pool, query, x, grad)
    eager = with_gradients(ep.pool, query, x, grad)
    truth = with_gradients(ep.pool, query.double(), x.double(), grad)
    assert found[0].dtype == found[1].dtype == found[2].dtype == torch.float32
    assert found[3].dtype == dtype
    halves = {torch.float32: 0.0, torch.float16: 2.0**-21, torch.bfloat16: 2.0**-15}[dtype]  # two numbers of 16 bits
    for name, one, other, true in zip(("pooled", "maps", "dU", "dX"), found, eager, truth, strict=True):
        assert_near_truth(one, other, true, f"{name} of {case}", floor=1e-5 + 4 * halves)


@pytest.mark.interpret
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_two_products(case, dtype, device):
    holds(dtype, case, device)


@pytest.mark.interpret
def test_matches_two_products_in_bfloat16(device, bfloat16):
    holds(bfloat16, CASES[0], device)


@pytest.mark.interpret
def test_the_head_takes_them_and_each_is_launched(device, launches, monkeypatch):
    if device.type == "cpu":
        monkeypatch.setattr(ep, "needs_triton", lambda _: None)
    launched = launches(probing, *NAMES)
    torch.manual_seed(0)
    head = ep.EfficientPooling(TokenShape(width=24, tokens=9, queries=4)).to(device)
    x = torch.randn(2, 9, 24, device=device)
    with choices() as taken:
        out = head(x)
    assert [formulation.backend for _, formulation in taken] == ["triton"]
    out.sum().backward()
    assert launched == [*NAMES, *NAMES]
    maps = head.maps(x)
    torch.testing.assert_close(maps.sum(-1), torch.ones(2, 4, device=device))
    monkeypatch.setattr(ep, "needs_triton", lambda _: "is not asked")
    torch.testing.assert_close(head(x), out, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(head.maps(x), maps, rtol=1e-5, atol=1e-6)


@pytest.mark.interpret
def test_a_token_that_is_no_number_spoils_its_image_alone(device):
    query, x, _ = drawn((2, 3, 10, 16), torch.float32, device)
    x[0, 4] = torch.nan
    pooled, maps = probing.pool(query, x)
    assert pooled[0].isnan().all()
    assert maps[0].isnan().all()
    assert pooled[1].isfinite().all()


@pytest.mark.interpret
def test_no_images_and_no_tokens(device):
    query = torch.randn(3, 16, device=device)
    pooled, maps = probing.pool(query, torch.randn(0, 5, 16, device=device))
    assert (pooled.shape, maps.shape) == ((0, 3, 16), (0, 3, 5))
    pooled, maps = probing.pool(query, torch.randn(2, 0, 16, device=device))
    assert not pooled.any()
    assert maps.shape == (2, 3, 0)


def test_what_is_not_taken_is_refused_in_one_line(device):
    query, x, _ = drawn(CASES[1], torch.float64, device)
    with pytest.raises(ValueError, match=r"in Triton takes tokens of float32, .*, not torch\.float64\.$"):
        probing.pool(query, x)
