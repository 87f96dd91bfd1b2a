"""Residual branches as people write them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from attn.core.filters.initialise import initialise
from attn.core.filters.residual import residual_branches


class Basic(nn.Module):
    """ResNet's block, with a projection when the width changes."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(dim, out, 3, padding=1), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, padding=1), nn.BatchNorm2d(out)
        self.down = nn.Sequential(nn.Conv2d(dim, out, 1), nn.BatchNorm2d(out)) if dim != out else None

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = torch.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.down is not None:
            identity = self.down(x)
        out += identity
        return torch.relu(out)


class Plain(nn.Module):
    """No norms, a gate on the branch, an optional argument."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(dim, dim, 3, padding=1), nn.ReLU(), nn.Conv2d(dim, dim, 3, padding=1))
        self.gate = nn.Conv2d(dim, dim, 1)
        self.scale = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor, extra: Tensor | None = None) -> Tensor:
        out = self.body(x)
        out = out * torch.sigmoid(self.gate(out))
        return x.add(self.scale[:, None, None] * out)


class Transformer(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.mix, self.proj = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.proj(self.mix(self.n1(x)))
        return x + self.mlp(self.n2(x))


class Fusion(nn.Module):
    """Sums that are no shortcut: two inputs, and two paths of equal depth."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (self.a(x) + y) * (self.a(x) + self.b(x)) + 1


def test_what_is_a_branch():
    basic = Basic(4, 8)
    (branch,) = residual_branches(basic)
    assert branch.last is basic.bn2
    assert branch.weighted == (basic.conv1, basic.conv2)
    plain = Plain(4)
    (branch,) = residual_branches(plain)
    assert branch.last is plain.body[2]
    assert branch.weighted == (plain.body[0], plain.body[2], plain.gate)
    former = Transformer(4)
    assert [b.last for b in residual_branches(former)] == [former.proj, former.mlp[2]]
    assert [len(b.weighted) for b in residual_branches(former)] == [2, 2]


def test_what_is_none():
    assert residual_branches(Fusion()) == []


def test_a_forward_that_cannot_be_traced_hides_only_itself():
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Plain(3)

        def forward(self, x: Tensor) -> Tensor:
            if x.sum() > 0:
                return x
            return x + self.block(x)

    assert len(residual_branches(Outer())) == 1


@pytest.mark.parametrize("name", ["fixup", "zero-gamma"])
def test_blocks_start_as_their_shortcut(name):
    x = torch.randn(2, 4, 6, 6)
    for net, shape in ((Basic(4, 4), x), (Plain(4), x), (Transformer(6), x)):
        initialise(net, name, generator=torch.Generator().manual_seed(0))
        out = net(shape)
        expected = torch.relu(shape) if isinstance(net, Basic) else shape
        torch.testing.assert_close(out, expected)
        out.square().sum().backward()
        gradients = [p.grad for p in net.parameters() if p.grad is not None]
        assert any(g.any() for g in gradients)  # it can leave that state


def test_fixup_scales_by_depth():
    net = nn.Sequential(*(Plain(4) for _ in range(9)))
    plain = nn.Sequential(*(Plain(4) for _ in range(9)))
    did = initialise(net, "fixup", generator=torch.Generator().manual_seed(0))
    initialise(plain, "he", generator=torch.Generator().manual_seed(0))
    # L = 9 branches of m = 3 layers: 9^(-1 / 4)
    torch.testing.assert_close(net[5].body[0].weight, plain[5].body[0].weight * 9**-0.25)
    torch.testing.assert_close(net[5].gate.weight, plain[5].gate.weight * 9**-0.25)
    assert not net[5].body[2].weight.any()
    assert did[15] == "5.body.0: he, std 0.236 times 0.577, bias 0"
    assert did[16] == "5.body.2: 0, the end of a residual branch, bias 0"


def test_zero_gamma_keeps_the_convolutions():
    net = Basic(4, 8)
    did = initialise(net, "zero-gamma", generator=torch.Generator().manual_seed(0))
    assert not net.bn2.weight.any()
    assert net.bn1.weight.all()
    assert net.down[1].weight.all()
    assert net.conv2.weight.std() > 0.1
    assert did[1] == "conv2: he, std 0.167, 0 in bn2, bias 0"


def test_refused_without_branches():
    net = Fusion()
    before = net.a.weight.clone()
    with pytest.raises(ValueError, match="no residual branch was found in Fusion"):
        initialise(net, "fixup")
    assert torch.equal(net.a.weight, before)
