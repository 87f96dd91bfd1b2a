"""Orthogonal, delta-orthogonal, Dirac, ICNR and sparse filters: the properties that give them their names."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attn.core.filters.structured import delta_orthogonal, dirac, icnr, orthogonal, sparse


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize("shape", [(8, 3, 3, 3), (40, 2, 3, 3), (5, 5), (4, 1, 7)], ids=str)
def test_orthogonal(shape):
    w = orthogonal(torch.zeros(shape), gain=2.0, generator=seeded()).flatten(1)
    gram = w @ w.T if shape[0] <= w.shape[1] else w.T @ w
    torch.testing.assert_close(gram, 4 * torch.eye(len(gram)), atol=1e-6 * 4, rtol=0)


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (2, 4), (5,), (3, 3, 3)], ids=str)
def test_delta_orthogonal_keeps_the_norm_of_every_input(kernel):
    w = delta_orthogonal(6, 4, kernel, generator=seeded(), dtype=torch.float64)
    assert w.shape == (6, 4, *kernel)
    assert w.count_nonzero() == w[(..., *(k // 2 for k in kernel))].count_nonzero() > 0
    x = torch.randn(2, 4, *[9] * len(kernel), dtype=torch.float64, generator=seeded())
    padding = [side for k in kernel[::-1] for side in (k // 2, k - 1 - k // 2)]
    conv = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(kernel)]
    out = conv(F.pad(x, padding, mode="circular"), w)
    torch.testing.assert_close(out.norm(), x.norm(), rtol=1e-9, atol=0)


def test_delta_orthogonal_cannot_lose_channels():
    with pytest.raises(ValueError, match="must not be fewer"):
        delta_orthogonal(3, 4, (3, 3))


@pytest.mark.parametrize("kernel", [(3, 3), (4, 4), (1, 5), (3,), (3, 3, 3)], ids=str)
@pytest.mark.parametrize(("out", "channels"), [(4, 4), (6, 4), (3, 4)])
def test_dirac_equals_torch(kernel, out, channels):
    assert torch.equal(dirac(out, channels, kernel), nn.init.dirac_(torch.empty(out, channels, *kernel)))


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_icnr_upsamples_as_nearest_neighbour(factor):
    base = torch.randn(4, 3, 3, 3, generator=seeded())
    x = torch.randn(1, 3, 6, 5, generator=seeded())
    out = F.pixel_shuffle(F.conv2d(x, icnr(base, factor), padding=1), factor)
    torch.testing.assert_close(out, F.interpolate(F.conv2d(x, base, padding=1), scale_factor=factor))


def test_icnr_factor():
    with pytest.raises(ValueError, match="at least 1"):
        icnr(torch.zeros(4, 1, 3, 3), 0)


def test_sparse():
    w = sparse(torch.zeros(2000, 4, 3, 3), nonzeros=15, gain=2.0, generator=seeded())
    assert (w.flatten(1).count_nonzero(1) == 15).all()
    assert w.square().sum((1, 2, 3)).mean().item() == pytest.approx(4.0, rel=0.05)  # gain^2, 3 % standard error x 1.6
    assert (w != 0).float().mean(0).std() < 0.02  # no place is preferred
    assert sparse(torch.zeros(5, 1, 3, 3), nonzeros=15, generator=seeded()).count_nonzero() == 45
    with pytest.raises(ValueError, match="at least 1"):
        sparse(torch.zeros(1, 1, 3, 3), nonzeros=0)
