"""VisionZip, CVPR 2025 (methods/pruning-peers.md, section 3.5): what the image tower looks at, and the rest merged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import UsageError
from ..engine.moment import Moment, PruneStage, TokenChoice
from ..engine.sites import VisionLanguageSite
from ..engine.tower import Tower, feature_layer, has_class_token
from .base import Keep, Pruner, largest, standing, tile_budgets


@dataclass(frozen=True)
class VisionZip(Pruner):
    """Dominant tokens by the attention of the tower's class token; contextual ones, in which the others are merged.

    A tower without a class token is asked for the mean attention that a patch receives. Every tile of a picture gets
    its part of the budget; tokens that stand for no patch (ends of lines) are the last to be kept.

    Parameters
    ----------
    contextual : float
        Share of the budget for merged tokens; the paper's 10 of 64.
    """

    attentive = True

    contextual: float = 10 / 64

    def __post_init__(self) -> None:
        if not 0 <= self.contextual <= 1:
            raise UsageError(f"contextual: {self.contextual:g} is no share of the budget, from 0 to 1.")

    def stages(self, site: VisionLanguageSite, keep: Keep) -> Sequence[PruneStage]:
        layer = feature_layer(site)

        def choose(moment: Moment) -> list[TokenChoice]:
            tower = moment.prompts.tower
            assert tower is not None
            seen = tower.class_attention(layer).sum(0) if has_class_token(site) else tower.received(layer)
            scores = self.modified(moment, [torch.where(cells < 0, 0, seen[cells]) for cells in tower.cells])
            metric = tower.keys(layer).mean(1)
            return [
                self.one(moment, tower, sample, score, metric, keep.of(len(score)))
                for sample, score in enumerate(scores)
            ]

        return [PruneStage(0, choose, tower=(layer,))]

    def one(self, moment: Moment, tower: Tower, sample: int, score: Tensor, metric: Tensor, count: int) -> TokenChoice:
        """The choice for one prompt: scores [n], metric [cells, d]."""
        numbers, cells = moment.numbers[sample], tower.cells[sample]
        there = score > -torch.inf
        if count >= int(there.sum()):
            return TokenChoice(numbers[there], score=score)
        features = moment.hidden[sample, moment.places[sample]].clone()
        tiles, ends = tile_budgets(tower, sample, count)
        order = []
        for every, share in tiles:
            tile = every[there[every]]
            own = min(share, len(tile))
            if not own:
                continue
            merged = min(int(own * self.contextual + 0.5), own)
            dominant = largest(score[tile], own - merged)
            order.append(tile[dominant])
            if merged:
                of = cells[tile]
                targets, tokens = contextual_tokens(tower.features[of], metric[of], dominant, merged)
                order.append(tile[targets])
                features[tile[targets]] = tower.project(tokens).to(features.dtype)
        kept = torch.cat([*order, ends])
        return standing(moment.prompts, sample, numbers[kept], features[kept], score)


def contextual_tokens(features: Tensor, metric: Tensor, dominant: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Merge what is not dominant.

    Parameters
    ----------
    features : Tensor [n, C]
    metric : Tensor [n, d]
        By which they are alike.
    dominant : Tensor of int64
        Places that are left out.
    count : int
        At most n less the dominant.

    Returns
    -------
    targets : Tensor of int64 [count]
        Every so-maniest of the others.
    tokens : Tensor [count, C]
        Each target, and the mean of what is most like it added.
    """
    left = torch.ones(len(features), dtype=torch.bool, device=features.device)
    left[dominant] = False
    rest = left.nonzero().flatten()
    targets = rest[:: max(1, len(rest) // count)][:count]
    left[targets] = False
    others = left.nonzero().flatten()
    metric = F.normalize(metric.float(), dim=-1)
    nearest = (metric[others] @ metric[targets].mT).argmax(1)
    sums = features.new_zeros(count, features.shape[1]).index_add(0, nearest, features[others])
    sizes = nearest.bincount(minlength=count).clamp(min=1)
    return targets, features[targets] + sums / sizes[:, None].to(sums.dtype)
