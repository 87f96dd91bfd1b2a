"""flash-linear-attention behind the contract: what its kernel is handed, on a stand-in with its signature."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from qkv import random_qkv

from attn.core.attention import fla
from attn.core.attention.contract import Shape
from attn.core.attention.equations import repeat_kv
from attn.core.attention.lightning.decay import slopes
from attn.core.attention.lightning.operator import OPERATOR as LIGHTNING


class OnGPU(torch.Tensor):
    """A CPU tensor that says it is on a GPU."""

    @property
    def device(self):
        return torch.device("cuda")


@pytest.fixture
def kernel(monkeypatch):
    """A stand-in for the package that computes in its own layout: [B, L, H, D], log decay per head."""
    calls = []

    def chunk_simple_gla(q, k, v, g=None, g_gamma=None, scale=None):
        calls.append((q, k, v, g_gamma, scale))
        assert q.shape[:3] == k.shape[:3] == v.shape[:3]
        distance = torch.arange(q.shape[1])[:, None] - torch.arange(q.shape[1])
        decay = (g_gamma[:, None, None] * distance.clamp(min=0)).exp() * (distance >= 0)
        scores = torch.einsum("bthd,bshd->bhts", q, k) * scale * decay
        return torch.einsum("bhts,bshe->bthe", scores, v), None

    package = types.ModuleType("fla.ops.simple_gla")
    package.chunk_simple_gla = chunk_simple_gla
    monkeypatch.setitem(sys.modules, "fla", types.ModuleType("fla"))
    monkeypatch.setitem(sys.modules, "fla.ops", types.ModuleType("fla.ops"))
    monkeypatch.setitem(sys.modules, "fla.ops.simple_gla", package)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *args, _to=torch.Tensor.to, **kwargs: (
        self if args == (torch.device("cuda"),) else _to(self, *args, **kwargs)
    ))  # fmt: skip
    return calls


@pytest.mark.parametrize("scale", [None, 0.5])
def test_layout_decay_and_scale_reach_the_kernel(kernel, scale):
    q, k, v = random_qkv((2, 4, 2, 30, 30, 8))
    v = v[..., :5]
    out = fla.OPERATOR.blocked(*(t.as_subclass(OnGPU) for t in (q, k, v)), scale=scale, layer=1, num_layers=3)
    expected = LIGHTNING.reference(q, k, v, scale=scale, layer=1, num_layers=3)
    torch.testing.assert_close(out.as_subclass(torch.Tensor), expected, rtol=1e-5, atol=1e-5)
    (given,) = kernel
    assert given[0].shape == (2, 30, 4, 8)
    assert all(t.is_contiguous() for t in given[:3])
    assert torch.equal(given[1].as_subclass(torch.Tensor), repeat_kv(k, 4).transpose(1, 2))
    assert torch.equal(given[3], -slopes(4, layer=1, num_layers=3))
    assert given[4] == (1.0 if scale is None else scale)


def test_on_the_cpu_it_says_so_and_names_what_does_run_there():
    q, k, v = random_qkv((1, 1, 1, 16, 16, 8))
    with pytest.raises(ValueError, match=r"run on a GPU only .* Use lightning there"):
        fla.OPERATOR.blocked(q, k, v, causal=True)


def test_reference_and_rows_are_those_of_lightning():
    q, k, v = random_qkv((1, 2, 1, 40, 40, 8), torch.float64)
    expected = LIGHTNING.reference(q, k, v, layer=2, num_layers=5)
    assert torch.equal(fla.OPERATOR.reference(q, k, v, layer=2, num_layers=5), expected)
    rows = torch.tensor([3, 39])
    some = fla.OPERATOR.rows(q, k, v, rows, layer=2, num_layers=5)
    torch.testing.assert_close(some, expected[:, :, rows], rtol=1e-12, atol=1e-12)


def test_cost_is_linear():
    short, long = (fla.OPERATOR.cost(Shape(1, 1, 1, n, n, 64, 64, True)) for n in (1024, 4096))
    assert long.flops == 4 * short.flops
