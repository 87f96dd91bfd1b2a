"""Tokens at random (methods/pruning-peers.md, section 3.1)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..engine.moment import Moment, PruneStage, TokenChoice
from ..engine.sites import VisionLanguageSite
from .base import Keep, Pruner


@dataclass(frozen=True)
class Random(Pruner):
    """Distinct tokens from a generator seeded by ``seed`` and the name of the prompt, whatever batch it is in."""

    layer: int | None = None
    seed: int = 0

    def stages(self, site: VisionLanguageSite, keep: Keep) -> Sequence[PruneStage]:
        def choose(moment: Moment) -> list[TokenChoice]:
            choices = []
            for sample, numbers in enumerate(moment.numbers):
                name = f"{self.seed} {moment.prompts.ids[sample]}".encode()
                seed = int.from_bytes(hashlib.blake2b(name, digest_size=7).digest(), "little")
                generator = torch.Generator().manual_seed(seed)
                order = torch.randperm(len(numbers), generator=generator).to(numbers.device)
                choices.append(TokenChoice(numbers[order[: keep.of(moment.prompts.counts[sample])]].sort().values))
            return choices

        return [PruneStage(self.layer or 0, choose)]
