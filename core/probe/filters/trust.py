"""Do the statistics of the filters tell anything that weights drawn at random would not give, too?

Every line is a number of all layers, beside that of the same weights drawn anew (``probe.trust.randomised``: the scale
of each layer is kept). Large layers are sampled: the same filters and channels of the model and of its redrawn twins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...report.sections import TrustLine
from ..trust.lines import UNTRAINED, line
from ..trust.randomised import randomised
from .read import FilterBank
from .statistics import FilterStatistics, statistics

SAMPLE = 48
"""Filters, and channels of each, of a layer at most."""
LAYERS = 24
LINES = {
    "redundancy": (True, 0.01, "1 - effective rank / most possible, mean over layers; trained filters share axes"),
    "kurtosis": (True, 0.25, "of the weights, mean over layers; 0 is a Gaussian, training gives heavy tails"),
    "separability": (True, 0.02, "energy in one column times one row, mean over layers; edges and blobs have much"),
    "frequency_centroid": (
        False, 0.01, "cycles per weight, mean over layers; smooth filters have less than noise, which has about 0.38",
    ),
}  # fmt: skip
"""Statistic -> whether training makes it larger, what difference matters at all, and what it is."""


def trust_lines(banks: Sequence[FilterBank], seed: int) -> list[TrustLine]:
    """Lines of those statistics that the layers have."""
    generator = torch.Generator().manual_seed(seed)
    every = list(banks)
    if len(every) > LAYERS:
        every = [every[round(step * (len(every) - 1) / (LAYERS - 1))] for step in range(LAYERS)]
    holder = nn.Module()
    for number, bank in enumerate(every):
        holder.register_parameter(f"layer{number}", nn.Parameter(sample(bank.filters, generator), requires_grad=False))
    own, twins = character(holder), []
    for number in range(UNTRAINED):
        with randomised(holder, seed + 1 + number):
            twins.append(character(holder))
    lines = []
    for name, (higher, least, meaning) in LINES.items():
        if not math.isnan(own[name]):
            chance = [twin[name] for twin in twins]
            words = f"{name.replace('_', ' ')} against redrawn weights"
            lines.append(line(words, own[name], chance, meaning, higher=higher, least=least))
    return lines


def sample(filters: Tensor, generator: torch.Generator) -> Tensor:
    """At most ``SAMPLE`` filters and channels, float32."""
    for axis in (0, 1):
        if (size := filters.shape[axis]) > SAMPLE:
            rows = torch.randperm(size, generator=generator)[:SAMPLE].sort().values
            filters = filters.index_select(axis, rows)
    return filters.detach().float().cpu().clone()


def character(holder: nn.Module) -> dict[str, float]:
    """Means over the layers, of those that have the statistic."""
    found = [statistics(weight) for weight in holder.parameters()]
    return {name: mean([number(one, name) for one in found]) for name in LINES}


def number(found: FilterStatistics, name: str) -> float:
    """A statistic of a layer; of those of each kernel the mean."""
    value: Any = getattr(found, name)
    return float(value.mean()) if isinstance(value, Tensor) else float(value)


def mean(values: Sequence[float]) -> float:
    """Of those that are numbers; NaN where none is."""
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan
