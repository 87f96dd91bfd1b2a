"""What a pruning method is."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..engine.moment import Moment, PruneStage, TokenChoice
from ..engine.sites import VisionLanguageSite

Modifier = Callable[[Moment, list[Tensor]], list[Tensor]]
"""Scores of each prompt's visual tokens [n_b] to better ones; such as debiasing. -inf: a token must not be kept."""


@dataclass(frozen=True)
class Pruner(ABC):
    """A method with its settings.

    Parameters
    ----------
    modifiers : sequence of Modifier
        Applied in order to the scores of attention before tokens are chosen, at every stage: a modifier knows by itself
        at which of them it acts. Only for methods that are ``attentive``.
    """

    attentive: ClassVar[bool] = False
    """Its scores are attention, and go through ``modified``."""

    modifiers: tuple[Modifier, ...] = ()

    @abstractmethod
    def stages(self, site: VisionLanguageSite, keep: Keep) -> Sequence[PruneStage]:
        """When and how tokens are chosen in this model. Raises ``UsageError`` if that cannot be done in it."""

    def modified(self, moment: Moment, scores: list[Tensor]) -> list[Tensor]:
        """Scores after all modifiers."""
        for modifier in self.modifiers:
            scores = modifier(moment, scores)
        return scores


@dataclass(frozen=True, slots=True)
class Keep:
    """How many visual tokens stay.

    Parameters
    ----------
    share : float or None
        Of those of each prompt, in (0, 1].
    count : int or None
        Of each prompt; one of both is given.
    """

    share: float | None = None
    count: int | None = None

    def of(self, tokens: int) -> int:
        """Tokens that stay of so many: at least 1, where there are any."""
        wanted = self.count if self.count is not None else math.floor((self.share or 0) * tokens + 0.5)
        return min(tokens, max(1, wanted))


def top(scores: Tensor, numbers: Tensor, count: int) -> TokenChoice:
    """The ``count`` tokens with the largest scores, in order; the first of equal ones, and none of score -inf.

    Parameters
    ----------
    scores : Tensor [n]
    numbers : Tensor of int64 [n]
    count : int
    """
    order = torch.sort(scores, descending=True, stable=True).indices[: min(count, int((scores > -torch.inf).sum()))]
    return TokenChoice(numbers[order.sort().values], score=scores)


def layer_of(default: int, depth: int, wanted: int | None = None) -> int:
    """The decoder layer that a paper's ``default`` of 32 is in a model of ``depth`` layers; or the ``wanted`` one.

    Source: methods/pruning-peers.md, section 4.
    """
    return wanted if wanted is not None else max(1, round(default * depth / 32))
