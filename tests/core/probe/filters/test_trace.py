"""Receptive fields, costs, and what a model does on pictures, against what follows from its layers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attn.core.probe.filters.activations import effective_fields, field_radii, spread_over, watch
from attn.core.probe.filters.trace import traced


class Residual(nn.Module):
    """A shortcut beside two convolutions, ReLU as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1, stride=2)
        self.short = nn.Conv2d(3, 4, 1, stride=2)
        self.last = nn.Conv2d(4, 2, 3)
        self.pointwise = nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(F.relu(self.first(x)))
        out = self.last(torch.relu(y + self.short(x)))
        squeezed = self.pointwise(F.adaptive_avg_pool2d(out, 1))
        return squeezed.flatten(1)


def test_receptive_field_and_cost() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 7, stride=2, padding=3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(8, 8, 3, padding=1, groups=4), nn.Conv2d(8, 8, 3, dilation=2), nn.AvgPool2d(2),
        nn.Conv2d(8, 8, (1, 3)), nn.ConvTranspose2d(8, 6, 2, stride=2, groups=2),
    )  # fmt: skip
    places = traced(net.eval(), torch.zeros(2, 3, 64, 64))
    assert [place.field for place in places.values()][:4] == [7, 7 + 4 + 8, 19 + 16, 35 + 4 + 16]
    assert math.isnan(places["8"].field)
    assert places["0"].macs == 32 * 32 * 8 * 3 * 49
    assert places["4"].macs == 16 * 16 * 8 * 2 * 9
    assert places["8"].macs == 8 * 6 * 4 * 3 * 4  # every input value meets 3 filters of 4 weights
    assert places["5"].size == (12, 12)


def test_branches() -> None:
    places = traced(Residual().eval(), torch.zeros(1, 3, 16, 16))
    assert [place.order for place in places.values()] == [0, 1, 2, 3, 4]
    assert {name: place.field for name, place in places.items() if name != "pointwise"} == {
        "first": 3, "second": 5, "short": 1, "last": 9,
    }  # fmt: skip
    assert math.isnan(places["pointwise"].field)  # behind global pooling


def test_activity() -> None:
    torch.manual_seed(0)
    net: Any = Residual().eval()
    with torch.no_grad():
        net.first.bias[1] = -100.0
    pictures = torch.randn(6, 3, 16, 16)
    names = ["first", "second", "short", "last", "pointwise"]
    before = [weight.clone() for weight in net.parameters()]
    activity = watch(net, names, [pictures[:4], pictures[4:]])
    rows = activity.rows()
    assert list(rows) == names
    with torch.no_grad():
        first = net.first(pictures)
        second = net.second(first.relu())
    assert rows["first"]["output_variance"] == pytest.approx(float(first.double().var(correction=0)), rel=1e-5)
    assert rows["first"]["dead_on_data"] == 1
    assert rows["first"]["zeros"] == pytest.approx(float((first.relu() == 0).double().mean()))
    ratio = float(second.double().var(correction=0) / first.double().var(correction=0))
    assert rows["second"]["variance_ratio"] == pytest.approx(ratio, rel=1e-5)
    assert math.isnan(rows["second"]["dead_on_data"])  # its ReLU comes behind the sum, whose last part is short
    assert rows["short"]["dead_on_data"] == 0
    channels = second.transpose(0, 1).flatten(1).double()
    off = np.abs(np.corrcoef(channels.numpy()))[~np.eye(4, dtype=bool)]
    assert rows["second"]["correlation"] == pytest.approx(off.mean(), rel=1e-5)
    singular = torch.linalg.svdvals(channels - channels.mean(1, keepdim=True))
    share = singular / singular.sum()
    assert rows["second"]["activation_rank"] == pytest.approx(float(torch.exp(-(share * share.log()).sum())), rel=1e-4)
    logits = net(pictures[:4])
    F.cross_entropy(logits, logits.argmax(1)).backward()
    grad = net.last.weight.grad
    assert rows["last"]["gradient_ratio"] == pytest.approx(
        float(grad.norm() / net.last.weight.detach().norm()), rel=1e-4
    )
    assert all(torch.equal(one, other) for one, other in zip(before, net.parameters(), strict=True))
    assert not net.first._forward_hooks


def test_effective_field_lies_inside_the_theoretical_one() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)).eval()
    fields = effective_fields(net, ["0", "1"], torch.randn(2, 3, 15, 15))
    assert np.count_nonzero(fields["0"]) == 9
    assert np.count_nonzero(fields["1"]) == 25
    half, most = field_radii(fields["1"])
    assert 0 < half <= most <= math.hypot(2, 2) + 0.5
    point = np.zeros((5, 5), np.float32)
    assert all(math.isnan(radius) for radius in field_radii(point))
    point[1, 3] = 2
    assert field_radii(point) == (0.0, 0.0)


def test_names_are_spread_to_the_last() -> None:
    names = [str(number) for number in range(30)]
    assert spread_over(names, 4) == ["0", "10", "19", "29"]
    assert spread_over(names[:3]) == names[:3]
