"""Tokens at even distances (methods/pruning-peers.md, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..engine.moment import Moment, PruneStage, TokenChoice
from ..engine.sites import VisionLanguageSite
from .base import Keep, Pruner


@dataclass(frozen=True)
class Uniform(Pruner):
    """Tokens floor((j + 1/2) n / k), j = 0 .. k - 1."""

    layer: int | None = None

    def stages(self, site: VisionLanguageSite, keep: Keep) -> Sequence[PruneStage]:
        def choose(moment: Moment) -> list[TokenChoice]:
            choices = []
            for sample, numbers in enumerate(moment.numbers):
                count = keep.of(moment.prompts.counts[sample])
                steps = torch.arange(count, device=numbers.device)
                choices.append(TokenChoice(numbers[((2 * steps + 1) * len(numbers)) // (2 * count)]))
            return choices

        return [PruneStage(self.layer or 0, choose)]
