"""DivPrune, CVPR 2025 (methods/pruning-peers.md, section 3.6): tokens that are as unlike each other as can be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..engine.moment import Moment, PruneStage, TokenChoice
from ..engine.sites import VisionLanguageSite
from .base import Keep, Pruner


@dataclass(frozen=True)
class DivPrune(Pruner):
    """Greedy max-min diversity of the projected features, before the language model."""

    def stages(self, site: VisionLanguageSite, keep: Keep) -> Sequence[PruneStage]:
        def choose(moment: Moment) -> list[TokenChoice]:
            choices = []
            for sample, (numbers, places) in enumerate(zip(moment.numbers, moment.places, strict=True)):
                count = keep.of(len(numbers))
                if count < len(numbers):
                    numbers = numbers[diverse(moment.hidden[sample, places], count).sort().values]
                choices.append(TokenChoice(numbers))
            return choices

        return [PruneStage(0, choose)]


def diverse(features: Tensor, count: int) -> Tensor:
    """Tokens in the order in which they are picked: each the farthest from all before it, by cosine.

    Parameters
    ----------
    features : Tensor [n, D]
    count : int
        From 1 to n.

    Returns
    -------
    Tensor of int64 [count]

    Notes
    -----
    The distances take 4 n^2 bytes. The first token is the one whose nearest neighbour is farthest.
    """
    unit = F.normalize(features.float(), dim=-1)
    distance = 1 - unit @ unit.mT
    order = torch.empty(count, dtype=torch.int64, device=features.device)
    if len(features) == 1:
        return order.zero_()
    order[0] = distance.kthvalue(2, 0).values.argmax()
    nearest = distance[order[0]].clone()
    for step in range(1, count):
        nearest[order[step - 1]] = -torch.inf
        order[step] = nearest.argmax()
        torch.minimum(nearest, distance[order[step]], out=nearest)
    return order
