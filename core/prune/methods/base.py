"""What a pruning method is, and what its budget means."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from ...errors import UsageError
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
        """When and how tokens are chosen in this model.

        Parameters
        ----------
        site : VisionLanguageSite
        keep : Keep
            What is left, averaged over the decoder layers behind the first choice.

        Raises
        ------
        UsageError
            If that cannot be done in this model.
        """

    def modified(self, moment: Moment, scores: list[Tensor]) -> list[Tensor]:
        """Scores after all modifiers."""
        for modifier in self.modifiers:
            scores = modifier(moment, scores)
        return scores

    def keep_for(self, site: VisionLanguageSite, retention: float) -> Keep:
        """The budget at which this method leaves a share of tokens, averaged over *all* layers of a model.

        Methods that choose at different layers are compared at equal ``retention`` (methods/prune-evaluation.md,
        sections 1 and 6): what every layer in front of the first choice sees in full is paid for behind it.

        Raises
        ------
        UsageError
            If the layers in front of the first choice alone see more.
        """
        first = min(stage.layer for stage in self.stages(site, Keep(share=1.0)))
        share = (retention * site.depth - first) / (site.depth - first)
        if share <= 0:
            raise UsageError(
                f"keep: a mean of {retention:.4g} over all {site.depth} layers cannot be reached: the {first} in front "
                f"of the first choice see every token. Keep more than {first / site.depth:.4g}, or choose earlier."
            )
        return Keep(share=min(share, 1.0))


@dataclass(frozen=True, slots=True)
class Keep:
    """How many visual tokens are left, averaged over the decoder layers behind a method's first choice.

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

    def share_of(self, tokens: int) -> float:
        """The share that stays of so many, unrounded."""
        return min(1.0, self.count / max(1, tokens)) if self.count is not None else (self.share or 0)


def top(scores: Tensor, numbers: Tensor, count: int) -> TokenChoice:
    """The ``count`` tokens with the largest scores, in order; the first of equal ones, and none of score -inf.

    Parameters
    ----------
    scores : Tensor [n]
    numbers : Tensor of int64 [n]
    count : int
    """
    return TokenChoice(numbers[largest(scores, count)], score=scores)


def largest(scores: Tensor, count: int) -> Tensor:
    """Places of the ``count`` largest scores [n], ascending, int64; the first of equal ones, and none of -inf."""
    count = min(count, int((scores > -torch.inf).sum()))
    return torch.sort(scores, descending=True, stable=True).indices[:count].sort().values


def layer_of(default: int, depth: int, wanted: int | None = None) -> int:
    """The decoder layer that a paper's ``default`` of 32 is in a model of ``depth`` layers; or the ``wanted`` one.

    Source: methods/pruning-peers.md, section 4.
    """
    return wanted if wanted is not None else max(1, math.floor(default * depth / 32 + 0.5))


def schedule(keep: float, rows: Sequence[Sequence[float]], layers: Sequence[int], depth: int) -> tuple[float, ...]:
    """The shares that are left from stage to stage such that their mean over the layers behind the first is ``keep``.

    A paper gives stages for some budgets only. Between two of them, and towards all and nothing, shares are
    interpolated; a mean over layers is linear in the shares, so that the result has the mean that is wanted.

    Parameters
    ----------
    keep : float
        In (0, 1].
    rows : sequence of (share of each stage)
        Of the paper, not rising from stage to stage.
    layers : sequence of int
        In front of which the stages are, ascending.
    depth : int
        Layers of the model.
    """
    ends = [*layers[1:], depth]
    weights = [(end - start) / (depth - layers[0]) for start, end in zip(layers, ends, strict=True)]

    def mean(row: Sequence[float]) -> float:
        return sum(weight * share for weight, share in zip(weights, row, strict=True))

    known = sorted([[0.0] * len(layers), *map(list, rows), [1.0] * len(layers)], key=mean)
    for low, high in pairwise(known):
        if keep <= mean(high):
            part = (keep - mean(low)) / (mean(high) - mean(low))
            return tuple(a + part * (b - a) for a, b in zip(low, high, strict=True))
    return tuple(known[-1])


def truncated(share: float, tokens: int) -> int:
    """int(share * tokens), at least 1, unharmed by a share that was computed a rounding error too small."""
    return max(1, int(share * tokens + 1e-6))


def shared_out(count: int, sizes: Sequence[int]) -> list[int]:
    """A budget shared out to parts in proportion to their sizes; the sum is the budget, no part gets more than it has.

    Parameters
    ----------
    count : int
        At most the sum of the sizes.
    sizes : sequence of int
    """
    total, before, shares = sum(sizes), 0, []
    for size in sizes:
        shares.append((before + size) * count // total - before * count // total)
        before += size
    return shares
