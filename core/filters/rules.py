"""Random rules: independent weights whose variance depends on a layer's fans.

Specification: methods/filter-design.md, section 3.1. One formula covers all of them: std = gain / sqrt(fan). The
numbers equal those of ``torch.nn.init`` for ordinary convolutions; ``layers.fans`` adds the transposed ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Rule:
    """Distribution, the fan that its variance is divided by, and the usual gain.

    Parameters
    ----------
    law : {"normal", "trunc-normal", "uniform"}
        ``trunc-normal`` is cut at two nominal standard deviations, which leaves 0.88 of the nominal one.
    fan : {"in", "out", "mean", "none"}
        ``mean``: of both; ``none``: the gain is the standard deviation itself.
    gain : float
        Larger gain, larger weights.
    """

    law: Literal["normal", "trunc-normal", "uniform"]
    fan: Literal["in", "out", "mean", "none"]
    gain: float

    def std(self, fan_in: int, fan_out: int, gain: float | None = None) -> float:
        """Nominal standard deviation of the weights."""
        fan = {"in": fan_in, "out": fan_out, "mean": (fan_in + fan_out) / 2, "none": 1}[self.fan]
        return (self.gain if gain is None else gain) / math.sqrt(fan)

    def bound(self, fan_in: int, fan_out: int, gain: float | None = None) -> float:
        """Largest absolute weight of the uniform law with this standard deviation."""
        return math.sqrt(3) * self.std(fan_in, fan_out, gain)

    def draw(
        self, weight: Tensor, fan_in: int, fan_out: int, gain: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """Fill ``weight`` in place and return it."""
        std = self.std(fan_in, fan_out, gain)
        if self.law == "normal":
            return nn.init.normal_(weight, std=std, generator=generator)
        if self.law == "trunc-normal":
            return nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std, generator=generator)
        bound = self.bound(fan_in, fan_out, gain)
        return nn.init.uniform_(weight, -bound, bound, generator=generator)


def he_gain(slope: float = 0.0) -> float:
    """sqrt(2 / (1 + slope^2)): the gain of ``he`` before a leaky ReLU of this negative slope."""
    return math.sqrt(2 / (1 + slope**2))


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "normal": Rule("normal", "none", 0.02),
        "trunc-normal": Rule("trunc-normal", "none", 0.02),
        "uniform": Rule("uniform", "none", 0.02),
        "lecun": Rule("normal", "in", 1.0),
        "lecun-uniform": Rule("uniform", "in", 1.0),
        "xavier": Rule("normal", "mean", 1.0),
        "xavier-uniform": Rule("uniform", "mean", 1.0),
        "he": Rule("normal", "in", he_gain()),
        "he-uniform": Rule("uniform", "in", he_gain()),
        "he-fan-out": Rule("normal", "out", he_gain()),
        "he-uniform-fan-out": Rule("uniform", "out", he_gain()),
    }
)
"""The rules by the names of ``INITIALISERS``."""

TORCH_DEFAULT = Rule("uniform", "in", he_gain(math.sqrt(5)))
"""What convolution and linear layers of PyTorch start with: bound 1 / sqrt(fan_in)."""
