"""Patches dropped in stages: how many where, and the two rankings that need no training."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from ...errors import UsageError
from ..methods.base import Keep
from .base import StagedPruner
from .site import ImageSite
from .stages import DropStage, MergeStages, PatchScores

STAGES = 3


def positions_of(depth: int, layer: int | None = None) -> tuple[int, ...]:
    """Blocks in front of which patches are dropped: 4, 7, 10 of 12, from 3 on; or three from ``layer`` on.

    Source: methods/as-vit.md, section 3.2. Early class attention is unstable, so that depths below 4 have none.
    """
    first = max(3, round(depth / 3)) if layer is None else layer
    return tuple(sorted({p for i in range(STAGES) if (p := first + round(i * (depth - first) * 3 / 8)) < depth}))


def stage_shares(share: float, positions: Sequence[int], depth: int) -> list[float]:
    """Shares g, g², g³ behind the stages, whose mean over the blocks from the first on is ``share``."""
    lengths = [end - start for start, end in zip(positions, (*positions[1:], depth), strict=True)]

    def mean(g: float) -> float:
        return sum(length * g ** (stage + 1) for stage, length in enumerate(lengths)) / sum(lengths)

    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if mean(middle) < share else (low, middle)
    return [high ** (stage + 1) for stage in range(len(lengths))]


def stage_counts(share: float, positions: Sequence[int], depth: int, tokens: int) -> list[int]:
    """``stage_shares`` of so many tokens as whole numbers from 1; what one stage is rounded by, the next makes up."""
    counts: list[int] = []
    lengths = [end - start for start, end in zip(positions, (*positions[1:], depth), strict=True)]
    owed, most = 0.0, tokens
    for part, length in zip(stage_shares(share, positions, depth), lengths, strict=True):
        most = min(most, max(1, round(part * tokens + owed / length)))
        owed += length * (part * tokens - most)
        counts.append(most)
    return counts


def checked_positions(site: ImageSite, layer: int | None, positions: Sequence[int] | None = None) -> tuple[int, ...]:
    """Where a model is pruned. Raises ``UsageError`` where it has no such blocks."""
    found = tuple(positions) if positions is not None else positions_of(site.depth, layer)
    name = type(site.model).__name__
    if not found or found[0] < 1 or found[-1] >= site.depth:
        wanted = f"layer {layer}" if layer is not None else f"positions {list(found)}" if found else "its depth"
        raise UsageError(
            f"{wanted}: {name} has blocks 0 to {site.depth - 1}; patches can be dropped in front of 1 to "
            f"{site.depth - 1}, by default from 3 on."
        )
    if any(a >= b for a, b in pairwise(found)):
        raise UsageError(f"positions {list(found)} must be ascending.")
    return found


def best(score: Tensor, alive: Tensor, count: int) -> Tensor:
    """The ``count`` patches of each picture with the largest scores, the first of equal ones; bool [B, n]."""
    score = score.masked_fill(~alive, -torch.inf)
    index = torch.sort(score, descending=True, stable=True).indices[:, :count]
    return torch.zeros_like(alive).scatter(1, index, True) & alive


@dataclass(frozen=True)
class RankedPruner(StagedPruner):
    """As many patches of every picture are left at every stage: those of the highest rank.

    Parameters
    ----------
    layer : int or None
        The first stage; None: see ``positions_of``.
    """

    layer: int | None = None

    @abstractmethod
    def rank(self, scores: PatchScores) -> Tensor:
        """Of each patch, [B, n]."""

    def stages(self, site: ImageSite, keep: Keep) -> tuple[Sequence[DropStage], MergeStages | None]:
        positions = checked_positions(site, self.layer)
        if keep.share == 1:
            return (), None

        def choose(stage: int, scores: PatchScores) -> Tensor:
            share = keep.share or (keep.count or 0) / scores.patches
            count = stage_counts(min(1.0, share), positions, site.depth, scores.patches)[stage]
            return best(self.rank(scores), scores.alive, count)

        return [DropStage(layer, partial(choose, stage)) for stage, layer in enumerate(positions)], None


@dataclass(frozen=True)
class RandomPatches(RankedPruner):
    """Patches at random, from a generator seeded by ``seed`` and the number of the picture."""

    seed: int = 0

    def rank(self, scores: PatchScores) -> Tensor:
        batch, n = scores.alive.shape
        rows = []
        for sample in range(batch):
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + scores.first + sample)
            rows.append(torch.rand(n, generator=generator))
        return torch.stack(rows).to(scores.alive.device)


@dataclass(frozen=True)
class ClassAttention(RankedPruner):
    """The patches that the class token attends to most, mean over the heads, in the block in front."""

    def rank(self, scores: PatchScores) -> Tensor:
        assert scores.row is not None
        return scores.row.mean(1)
