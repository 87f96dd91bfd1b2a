"""LSUV: unit variances, forward order, and a module that is otherwise as it was."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from attn.core.filters.lsuv import lsuv_, unit_variance_


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(11)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(8, 3, 16, 16, generator=seeded())


def output_variances(net: nn.Module, images: Tensor, kinds: tuple[type, ...]) -> dict[str, float]:
    out: dict[str, float] = {}
    handles = [
        part.register_forward_hook(lambda _, __, y, name=name: out.update({name: y.var(correction=0).item()}))
        for name, part in net.named_modules()
        if isinstance(part, kinds)
    ]
    with torch.no_grad():
        net(images)
    for handle in handles:
        handle.remove()
    return out


def deep() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3, groups=8, padding=1), nn.ReLU(),
        nn.Conv2d(8, 12, 1), nn.GELU(), nn.ConvTranspose2d(12, 6, 2, stride=2, groups=2), nn.ReLU(),
        nn.Conv2d(6, 6, 2, dilation=2), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 5),
    )  # fmt: skip


def test_unit_variance_everywhere(images):
    net = deep()
    nn.init.constant_(net[4].bias, 3.0)
    done = lsuv_(net, images, generator=seeded())
    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    variances = output_variances(net, images, kinds)
    assert [one.name for one in done] == list(variances) == ["0", "2", "4", "6", "8", "11"]
    for one in done:
        assert one.after == pytest.approx(variances[one.name], rel=1e-4)
        assert abs(one.after - 1) < 0.05
        assert one.iterations <= 1  # without biases, one scaling is exact
    assert all(not part.bias.any() for part in net if isinstance(part, kinds))


def test_another_deviation(images):
    net = deep()
    lsuv_(net, images, std=3.0, generator=seeded())
    assert all(abs(v / 9 - 1) < 0.05 for v in output_variances(net, images, (nn.Conv2d, nn.Linear)).values())


def test_starts_from_what_is_there(images):
    net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False))
    before = net[0].weight.clone()
    unit_variance_(net, images)
    ratio = net[0].weight / before
    torch.testing.assert_close(ratio, ratio[0, 0, 0, 0].expand_as(ratio))


def test_biases_make_it_iterate(images):
    net = nn.Sequential(nn.Conv2d(3, 4, 3))
    net[0].bias.data = torch.tensor([0.5, -0.5, 0.4, -0.4])
    (one,) = unit_variance_(net, images, tol=1e-4, iterations=50)
    assert one.iterations > 1
    assert abs(one.after - 1) < 1e-4
    (two,) = unit_variance_(nn.Sequential(nn.Conv2d(3, 4, 3)), images, tol=1e-9, iterations=2)
    assert two.iterations <= 2


class Crossed(nn.Module):
    """Runs its layers in another order than it defines them, one twice and one never."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.twice, self.first, self.never = (nn.Conv2d(c, 4, 1) for c in (4, 4, 3, 4))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.twice(self.twice(input=self.first(x))))
        return out


def test_forward_order(images):
    net = Crossed()
    done = lsuv_(net, images, generator=seeded())
    assert [one.name for one in done] == ["first", "twice", "last"]
    assert abs(output_variances(net, images, (nn.Conv2d,))["last"] - 1) < 0.05
    torch.testing.assert_close(net.never.weight.flatten(1) @ net.never.weight.flatten(1).T, torch.eye(4))


def test_modes_buffers_and_hooks_come_back(images):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.9), nn.Conv2d(4, 4, 3)).train()
    net[1].eval()
    buffers = {name: value.clone() for name, value in net.named_buffers()}
    lsuv_(net, images, generator=seeded())
    assert [part.training for part in net] == [True, False, True, True]
    assert all(torch.equal(value, buffers[name]) for name, value in net.named_buffers())
    assert not any(part._forward_hooks for part in net)
    net.train()
    net[2].eval()
    assert abs(output_variances(net, images, (nn.Conv2d,))["3"] - 1) < 0.05  # batch statistics, no dropout


def test_skip_normalised(images):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3))
    assert [one.name for one in unit_variance_(net, images, skip_normalised=True)] == ["3"]
    assert [one.name for one in unit_variance_(net, images)] == ["0", "3"]


def test_dead_batch_stops_with_the_layer(images):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Threshold(1e9, 0.0), nn.Conv2d(4, 4, 3))
    with pytest.raises(ValueError, match=r"^2: the variance of its output is 0 on these images \(a dead batch\)"):
        lsuv_(net, images)
    assert net[2].weight.isfinite().all()
    assert not net[0]._forward_hooks
    assert net.training
    with pytest.raises(ValueError, match=r"^0: the variance"):
        lsuv_(net, torch.zeros(2, 3, 8, 8))


def test_refused(images):
    net = deep()
    for bad in (images * torch.nan, images[:0]):
        with pytest.raises(ValueError, match="finite images"):
            lsuv_(net, bad)
    with pytest.raises(ValueError, match="must be positive"):
        lsuv_(net, images, tol=0)


def test_offsets_stay_zero(images):
    net = nn.ModuleDict({"conv": nn.Conv2d(3, 4, 3), "offset": nn.Conv2d(3, 18, 3)})
    net.forward = lambda x: (net["conv"](x), net["offset"](x))
    done = lsuv_(net, images, generator=seeded())
    assert [one.name for one in done] == ["conv"]
    assert not net["offset"].weight.any()
