"""Tokens at even distances (methods/pruning-peers.md, section 3.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..engine.moment import Moment, PruneStage, TokenChoice
from ..engine.sites import VisionLanguageSite
from .base import Keep, Pruner, tile_budgets


@dataclass(frozen=True)
class Uniform(Pruner):
    """Tokens floor((j + 1/2) n / k), j = 0 .. k - 1."""

    layer: int | None = None

    def stages(self, site: VisionLanguageSite, keep: Keep) -> Sequence[PruneStage]:
        def choose(moment: Moment) -> list[TokenChoice]:
            return [
                TokenChoice(numbers[evenly(len(numbers), keep.of(before), numbers.device)])
                for numbers, before in zip(moment.numbers, moment.prompts.counts, strict=True)
            ]

        return [PruneStage(self.layer or 0, choose)]


@dataclass(frozen=True)
class Uniform2d(Pruner):
    """The middles of a coarser grid of the picture's shape; what is left of the budget, at even distances."""

    layer: int | None = None

    def stages(self, site: VisionLanguageSite, keep: Keep) -> Sequence[PruneStage]:
        def choose(moment: Moment) -> list[TokenChoice]:
            tower = moment.prompts.tower
            assert tower is not None
            choices = []
            for sample, numbers in enumerate(moment.numbers):
                tiles, ends = tile_budgets(tower, sample, keep.of(len(numbers)))
                kept = [ends]
                for tile, own in tiles:
                    cells = tower.cells[sample][tile]
                    view = int(tower.views[cells[0]])
                    within = cells - int((tower.views < view).sum())  # a tile may be cut: its part of the grid is whole
                    rows = torch.div(within, tower.grids[view][1], rounding_mode="floor")
                    across = len(tile) // int(rows[-1] - rows[0] + 1)
                    kept.append(tile[grid_middles(len(tile) // across, across, own, tile.device)])
                choices.append(TokenChoice(numbers[torch.cat(kept).sort().values]))
            return choices

        return [PruneStage(self.layer or 0, choose, tower=())]


def evenly(tokens: int, count: int, device: torch.device) -> Tensor:
    """``count`` places among so many, at even distances, [count] int64."""
    return (2 * torch.arange(count, device=device) + 1) * tokens // max(1, 2 * count)


def grid_middles(down: int, across: int, count: int, device: torch.device) -> Tensor:
    """Cells of a grid: the middles of the largest grid of its shape that the budget allows, and evenly the rest.

    Returns
    -------
    Tensor of int64 [count], ascending
    """
    shrink = math.sqrt(count / (down * across))
    rows = min(count, max(1, math.floor(down * shrink + 1e-9)))
    columns = min(count // max(1, rows), max(1, math.floor(across * shrink + 1e-9)))
    picked = (evenly(down, rows, device)[:, None] * across + evenly(across, columns, device)).flatten()
    left = torch.ones(down * across, dtype=torch.bool, device=device)
    left[picked] = False
    others = left.nonzero().flatten()
    return torch.cat([picked, others[evenly(len(others), count - len(picked), device)]]).sort().values
