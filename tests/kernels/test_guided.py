"""The guided filter of FSG-Net in Triton against the equations in float64, and inside the network that uses it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from qkv import assert_near_truth

from attn.core.choose import choices
from attn.core.segment.fsgnet import fast
from attn.core.segment.fsgnet.guided import EPS, RADIUS
from attn.core.segment.fsgnet.guided import guided_filter as equations
from attn.core.segment.fsgnet.network import FSGNet, FullScaleTrunk, GuidedDecoder
from attn.kernels import guided

GOLDEN = Path(__file__).parents[1] / "golden" / "vectors" / "fsg-net"
NAMES = ("guided_coefficients_kernel", "guided_mean_kernel", "guided_upsample_kernel")
CASES = [(2, 1, (6, 7), (12, 15)), (1, 40, (7, 6), (15, 12)), (1, 5, (8, 8), (8, 8))]
"""Batch, channels, sizes: one channel; more channels than a program takes; no upsampling."""


@pytest.fixture
def chosen(device, monkeypatch):
    """The chooser takes the kernels, as on a GPU."""
    if device.type == "cpu":
        monkeypatch.setattr(fast, "needs_triton", lambda _: None)
    return device


def maps(case, device, seed=0):
    batch, channels, small, large = case
    generator = torch.Generator().manual_seed(seed)
    sizes = (channels, *small), (channels, *small), (channels, *large), (1, *small)
    return [torch.randn(batch, *size, generator=generator).to(device) for size in sizes]


@pytest.mark.interpret
@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_the_equations(case, dtype, coupled, device):
    inputs = [x.to(dtype) for x in maps(case, device)]
    truth = equations(*(x.double() for x in inputs), batch_coupled=coupled)
    eager = equations(*inputs, batch_coupled=coupled)
    out = guided.guided_filter(*inputs, coupled, RADIUS, EPS)
    assert out.dtype == dtype
    assert out.shape == truth.shape
    assert_near_truth(out, eager, truth, str(case), floor=1e-5)  # sums are float32 for every dtype


@pytest.mark.interpret
def test_golden_vectors(device):
    data = np.load(GOLDEN / "guided_filter.npz")
    inputs = [torch.from_numpy(data[name]).to(device, torch.float32) for name in ("lr_x", "lr_y", "hr_x", "att")]
    for name, coupled in [("out_batch_official", True), ("out_per_image", False)]:
        out = guided.guided_filter(*inputs, coupled, int(data["r"]), float(data["eps"]))
        np.testing.assert_allclose(out.cpu(), data[name], rtol=0, atol=1e-5)


@pytest.mark.interpret
def test_the_network_takes_them_and_each_is_launched(chosen, launches):
    launched = launches(guided, *NAMES)
    torch.manual_seed(0)
    net = fast.optimise(FSGNet(FullScaleTrunk(4), GuidedDecoder(4)))
    net, picture = net.to(chosen), torch.randn(1, 3, 48, 56, device=chosen)
    with choices() as taken:
        out = net(picture)
    used = [formulation.backend for phase, formulation in taken if phase is fast.GUIDED]
    assert used == ["triton"] * 3
    assert launched == [*NAMES] * 3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast, "needs_triton", lambda _: "is not asked")
        torch.testing.assert_close(out, net(picture), rtol=0, atol=1e-5)


@pytest.mark.interpret
def test_what_is_no_number_spoils_its_window_alone(device):
    low, target, high, attention = maps((1, 2, (16, 16), (16, 16)), device)
    target[0, 0, 2, 2] = torch.nan
    out = guided.guided_filter(low, target, high, attention, False, RADIUS, EPS)
    assert out[0, 0, :7, :7].isnan().all()
    assert out[0, 0, 8:].isfinite().all()
    assert out[0, 1].isfinite().all()


def test_what_is_not_taken_is_refused_in_one_line(device):
    low, target, high, attention = (x.double() for x in maps(CASES[0], device))
    with pytest.raises(ValueError, match=r"the guided filter in Triton takes float32, .*, not torch\.float64\.$"):
        guided.guided_filter(low, target, high, attention, False, RADIUS, EPS)
