"""Random rules: PyTorch's own numbers, and the variances of the specification on many samples."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from attn.core.filters.layers import fans
from attn.core.filters.rules import RULES, TORCH_DEFAULT, he_gain


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(7)


TORCH = {
    "lecun": lambda w, g: nn.init.kaiming_normal_(w, nonlinearity="linear", generator=g),
    "lecun-uniform": lambda w, g: nn.init.kaiming_uniform_(w, nonlinearity="linear", generator=g),
    "xavier": lambda w, g: nn.init.xavier_normal_(w, generator=g),
    "xavier-uniform": lambda w, g: nn.init.xavier_uniform_(w, generator=g),
    "he": lambda w, g: nn.init.kaiming_normal_(w, nonlinearity="relu", generator=g),
    "he-uniform": lambda w, g: nn.init.kaiming_uniform_(w, nonlinearity="relu", generator=g),
    "he-fan-out": lambda w, g: nn.init.kaiming_normal_(w, mode="fan_out", nonlinearity="relu", generator=g),
    "he-uniform-fan-out": lambda w, g: nn.init.kaiming_uniform_(w, mode="fan_out", nonlinearity="relu", generator=g),
    "normal": lambda w, g: nn.init.normal_(w, std=0.02, generator=g),
    "trunc-normal": lambda w, g: nn.init.trunc_normal_(w, std=0.02, a=-0.04, b=0.04, generator=g),
    "uniform": lambda w, g: nn.init.uniform_(w, -0.02 * math.sqrt(3), 0.02 * math.sqrt(3), generator=g),
}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("shape", [(12, 3, 5, 5), (7, 5), (4, 2, 3), (3, 2, 3, 1, 2)], ids=str)
def test_equals_torch(name, shape):
    ours = RULES[name].draw(torch.zeros(shape), *fans(shape), generator=seeded())
    torch.testing.assert_close(ours, TORCH[name](torch.zeros(shape), seeded()), rtol=1e-6, atol=0)


def test_torch_default_is_what_a_convolution_starts_with():
    conv = nn.Conv2d(30, 40, 5)
    bound = TORCH_DEFAULT.bound(*fans(conv.weight.shape))
    assert bound == pytest.approx(1 / math.sqrt(30 * 25))
    for value in (conv.weight, conv.bias):
        assert value.abs().max() <= bound
    assert conv.weight.abs().max() > 0.999 * bound


@pytest.mark.parametrize("name", RULES)
def test_std_within_three_standard_errors(name):
    rule, samples = RULES[name], torch.zeros(100, 40, 5, 5)  # 1e5 of them
    fan = fans(samples.shape)
    rule.draw(samples, *fan, generator=seeded())
    shrink = 0.8796 if rule.law == "trunc-normal" else 1.0  # of a normal cut at two standard deviations
    # of the variance, relative: sqrt((kurtosis - 1) / n), kurtosis 3 for the normal, which the others stay below
    error = 3 * math.sqrt(2 / samples.numel())
    assert samples.double().var().item() / (shrink * rule.std(*fan)) ** 2 == pytest.approx(1, abs=error)
    assert samples.mean().abs() < 3 * rule.std(*fan) / math.sqrt(samples.numel())


def test_gain_of_leaky_relu():
    assert he_gain(0.2) == pytest.approx(nn.init.calculate_gain("leaky_relu", 0.2))
    rule = RULES["he"]
    assert rule.std(9, 9, 5.0) == pytest.approx(5 / 3)


class TestFans:
    def test_groups(self):
        conv = nn.Conv2d(8, 12, 3, groups=4)
        assert fans(conv.weight.shape, groups=4) == (2 * 9, 12 * 9)  # fan_out as PyTorch counts it
        assert fans(conv.weight.shape, groups=4, divide_groups=True) == (2 * 9, 3 * 9)

    def test_transposed_is_the_convolution_with_the_same_channels(self):
        straight, transposed = nn.Conv2d(8, 12, (3, 2), groups=4), nn.ConvTranspose2d(8, 12, (3, 2), groups=4)
        assert fans(transposed.weight.shape, groups=4, transposed=True) == fans(straight.weight.shape, groups=4)

    @pytest.mark.parametrize("shape", [(5,), (5, 0, 3, 3)])
    def test_none(self, shape):
        with pytest.raises(ValueError, match="no fans"):
            fans(shape)
