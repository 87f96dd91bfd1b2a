"""LLaVA-PruMerge and PruMerge+, ICCV 2025 (methods/pruning-peers.md, section 3.7): outliers, and the rest in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import UsageError
from ...models.family import attention_places
from ..engine.moment import Moment, PruneStage, TokenChoice
from ..engine.sites import VisionLanguageSite
from ..engine.tower import Tower, has_class_token
from .base import Keep, Pruner, standing, tile_budgets

NEIGHBOURS = 32
"""Tokens that are added to each kept one."""


@dataclass(frozen=True)
class PruMerge(Pruner):
    """The tokens that the tower's class token looks at, each with its likes added, and one for all that are not kept.

    ``keep`` is the number of tokens with that last one. With ``adaptive`` it is the most: the number then follows from
    how many outliers a picture has, and varies from picture to picture.

    Parameters
    ----------
    plus : bool
        Add tokens at even distances, so that no part of the picture is left out: PruMerge+.
    adaptive : bool
        As the paper chooses their number.
    """

    plus: bool = True
    adaptive: bool = False

    def stages(self, site: VisionLanguageSite, keep: Keep) -> Sequence[PruneStage]:
        if not has_class_token(site):
            raise UsageError(
                f"prumerge: the image tower of {type(site.model).__name__} has no class token, whose attention "
                "it needs. visionzip does without one."
            )
        last = len(attention_places(site.tower)) - 1

        def choose(moment: Moment) -> list[TokenChoice]:
            tower = moment.prompts.tower
            assert tower is not None
            weights = tower.class_weights(last)
            keys = tower.keys(last).flatten(1)
            return [
                self.one(moment, tower, sample, weights, keys, keep.of(len(numbers)))
                for sample, numbers in enumerate(moment.numbers)
            ]

        return [PruneStage(0, choose, tower=(last,))]

    def one(self, moment: Moment, tower: Tower, sample: int, weights: Tensor, keys: Tensor, most: int) -> TokenChoice:
        """The choice for one prompt: weights [cells], keys [cells, C]."""
        numbers, cells = moment.numbers[sample], tower.cells[sample]
        if most >= len(numbers) and not self.adaptive:
            return TokenChoice(numbers)
        features = moment.hidden[sample, moment.places[sample]].clone()
        tiles, ends = tile_budgets(tower, sample, most)
        order = []
        for tile, own in tiles:
            if own == 0 or (own == len(tile) and not self.adaptive):
                order.append(tile[:own])
                continue
            of = cells[tile]
            kept = self.kept(weights[of], own)
            tokens = merged_tokens(tower.features[of], keys[of], weights[of], kept)
            if own > 1:  # one more of all the rest, where the most that is left out stood
                rest = weights[of].clone()
                rest[kept] = 0
                kept = torch.cat([kept, rest.argmax()[None]])
                tokens = torch.cat([tokens, (rest.to(tokens.dtype) @ tower.features[of])[None]])
            order.append(tile[kept])
            features[tile[kept]] = tower.project(tokens).to(features.dtype)
        kept = torch.cat([*order, ends])
        return standing(moment.prompts, sample, numbers[kept], features[kept])

    def kept(self, weights: Tensor, most: int) -> Tensor:
        """Places of the tokens of a tile that are kept, in the paper's order; with the one of the rest, ``most``.

        Parameters
        ----------
        weights : Tensor [P]
        most : int
        """
        count = len(weights)
        order = weights.sort(descending=True, stable=True).indices
        if self.adaptive:
            ratio = max(1, outliers(weights)) / count
            best = order[: int(count * ratio)]
            if self.plus:
                step = max(1, int(int(1 / ratio) / 3))
                spaced = torch.arange(0, count - 1, step, device=weights.device)
                best = torch.cat([best, spaced[~torch.isin(spaced, best)]])
            if len(best) < most:
                return best
        total = max(1, most - 1)
        first = -(-total // 4) if self.plus else total  # the paper adds about three times as many
        best, others = order[:first], order[first:].sort().values
        steps = torch.arange(total - first, device=weights.device)
        return torch.cat([best, others[(2 * steps + 1) * len(others) // max(1, 2 * (total - first))]])


def outliers(weights: Tensor) -> int:
    """How many weights lie above the third quartile by more than one and a half times the distance of the quartiles."""
    low, high = weights.quantile(torch.tensor([0.25, 0.75], device=weights.device)).tolist()
    return int((weights > high + 1.5 * (high - low)).sum())


def merged_tokens(features: Tensor, keys: Tensor, weights: Tensor, kept: Tensor) -> Tensor:
    """Kept tokens with what is like them added: X_i + sum a_j X_j over the most similar others, of all tokens.

    Parameters
    ----------
    features : Tensor [P, C]
    keys : Tensor [P, d]
    weights : Tensor [P]
        They are not normalised.
    kept : Tensor of int64 [k]

    Returns
    -------
    Tensor [k, C]
    """
    unit = F.normalize(keys.float(), dim=-1)
    alike = unit[kept] @ unit.mT
    alike[torch.arange(len(kept), device=kept.device), kept] = -torch.inf
    near = alike.topk(min(NEIGHBOURS, len(keys) - 1)).indices  # [k, 32]
    return features[kept] + torch.einsum("kn,knc->kc", weights[near].to(features.dtype), features[near])
