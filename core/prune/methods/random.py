"""Tokens at random (methods/pruning-peers.md, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..engine.moment import Moment, PruneStage, TokenChoice
from ..engine.sites import VisionLanguageSite
from .base import Keep, Pruner


@dataclass(frozen=True)
class Random(Pruner):
    """``keep`` distinct tokens from a generator seeded by ``seed`` and the number of the prompt in the batch."""

    layer: int | None = None
    seed: int = 0

    def stages(self, site: VisionLanguageSite, keep: Keep) -> Sequence[PruneStage]:
        def choose(moment: Moment) -> list[TokenChoice]:
            choices = []
            for sample, numbers in enumerate(moment.numbers):
                generator = torch.Generator().manual_seed(self.seed * 1_000_003 + sample)
                order = torch.randperm(len(numbers), generator=generator).to(numbers.device)
                choices.append(TokenChoice(numbers[order[: keep.of(moment.prompts.counts[sample])]].sort().values))
            return choices

        return [PruneStage(self.layer or 0, choose)]
