"""What a pruning method is, and what its budget means."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from ...errors import UsageError
from ...options import OptionError
from ..data.samples import QuestionSample
from ..engine.moment import Moment, PruneStage, TokenChoice
from ..engine.prompts import Prompts
from ..engine.sites import VisionLanguageSite
from ..engine.tower import Tower

Modifier = Callable[[Moment, list[Tensor]], list[Tensor]]
"""Scores of each prompt's visual tokens [n_b] to better ones; such as debiasing. -inf: a token must not be kept."""


@runtime_checkable
class HeldOutModifier(Protocol):
    """A ``Modifier`` whose settings were found on samples."""

    def check_held_out(self, samples: Iterable[QuestionSample]) -> None:
        """Raise ``UsageError`` if a sample is one of them."""


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

    def check_held_out(self, samples: Iterable[QuestionSample]) -> None:
        """Raise ``UsageError`` if a sample is one that the settings, or those of a modifier, were found on."""
        for modifier in self.modifiers:
            if isinstance(modifier, HeldOutModifier):
                modifier.check_held_out(samples)


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

    def remarks(self, tokens: int) -> tuple[str, ...]:
        """What a user should know where so many tokens cannot be cut to what was asked for."""
        if self.count is not None and self.count > tokens:
            return (f"keep: {self.count} are more than its {tokens} visual tokens: all stay",)
        if self.share is not None and math.floor(self.share * tokens + 0.5) < 1:
            return (f"keep: a share of {self.share:.4g} of its {tokens} visual tokens is less than one: one stays",)
        return ()

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


@dataclass(frozen=True, slots=True)
class Schedule:
    """Shares that are left from stage to stage, for any budget.

    A paper gives them for some budgets only. Between two of those, and towards all and nothing, they are interpolated:
    a mean over layers is linear in the shares, so that the result has the mean that is wanted.

    Parameters
    ----------
    layers : tuple of int
        In front of which the stages are, ascending.
    depth : int
        Layers of the model.
    rows : tuple of tuple of float
        The paper's, each not rising from stage to stage.
    """

    layers: tuple[int, ...]
    depth: int
    rows: tuple[tuple[float, ...], ...]

    @classmethod
    def of(
        cls, defaults: Sequence[int], rows: Sequence[Sequence[float]], depth: int, wanted: Sequence[int] | None
    ) -> Schedule:
        """That of a paper for 32 layers in a model of another depth, or with its stages at the layers that are wanted.

        Where several stages fall on one layer, the last counts.

        Raises
        ------
        UsageError
            If the layers that are wanted are not as many as the stages, or do not rise, or the model has too few.
        """
        if wanted is not None:
            if len(wanted) != len(defaults) or list(wanted) != sorted(set(wanted)):
                given = ",".join(map(str, wanted))
                raise OptionError(f"{{settings}} layers={given}: {len(defaults)} are wanted, rising.")
            if wanted[0] < 0 or wanted[-1] >= depth:
                given = ",".join(map(str, wanted))
                raise OptionError(f"{{settings}} layers={given}: the model has decoder layers 0 to {depth - 1}.")
            return cls(tuple(wanted), depth, tuple(map(tuple, rows)))
        stage = {layer_of(layer, depth): number for number, layer in enumerate(defaults)}  # of two, the last
        stage = {layer: number for layer, number in stage.items() if layer < depth}
        if not stage:
            raise UsageError(f"a model of {depth} decoder layers has too few to choose tokens between them.")
        return cls(tuple(stage), depth, tuple(tuple(row[number] for number in stage.values()) for row in rows))

    def mean(self, row: Sequence[float]) -> float:
        """Over the layers behind the first stage."""
        ends = (*self.layers[1:], self.depth)
        total = sum(share * (end - start) for share, start, end in zip(row, self.layers, ends, strict=True))
        return total / (self.depth - self.layers[0])

    def shares(self, keep: float) -> tuple[float, ...]:
        """Of each stage, such that their mean is ``keep``."""
        known = sorted([(0.0,) * len(self.layers), *self.rows, (1.0,) * len(self.layers)], key=self.mean)
        for low, high in pairwise(known):
            if keep <= self.mean(high):
                part = (keep - self.mean(low)) / (self.mean(high) - self.mean(low))
                return tuple(a + part * (b - a) for a, b in zip(low, high, strict=True))
        return known[-1]

    def counts(self, keep: Keep, tokens: int) -> tuple[int, ...]:
        """Tokens behind each stage, at least 1: rounded; at a budget of the paper cut off, as its program does."""
        shares = self.shares(keep.share_of(tokens))
        cut = any(all(abs(a - b) < 1e-9 for a, b in zip(shares, row, strict=True)) for row in self.rows)
        return tuple(max(1, int(share * tokens + (1e-6 if cut else 0.5))) for share in shares)


def tile_budgets(tower: Tower, sample: int, count: int) -> tuple[list[tuple[Tensor, int]], Tensor]:
    """A prompt's budget, shared out to its pictures, tiles or frames in proportion to their tokens.

    Parameters
    ----------
    tower : Tower
    sample : int
    count : int
        At most the visual tokens of the prompt.

    Returns
    -------
    tiles : list of (Tensor of int64, int)
        The places of the tile's tokens among those of the prompt, and how many of them may be kept.
    ends : Tensor of int64
        Places of tokens that are made of no patch (ends of lines) and are kept as well: only where the budget is more
        than all others.
    """
    tiles = tower.tiles(sample)
    placed = sum(map(len, tiles))
    ends = (tower.cells[sample] < 0).nonzero().flatten()[: max(0, count - placed)]
    shares, before = [], 0
    for tile in tiles:
        after = before + len(tile)
        shares.append((tile, after * min(count, placed) // placed - before * min(count, placed) // placed))
        before = after
    return shares, ends


def standing(prompts: Prompts, sample: int, keep: Tensor, features: Tensor, score: Tensor | None = None) -> TokenChoice:
    """Tokens in a method's own order [k], with what stands in their places [k, D].

    Where tokens keep their positions, each stands at its own. Where they are numbered anew, the order is the method's,
    if nothing stands between the visual tokens of the prompt.
    """
    visual = prompts.visual[sample]
    if not prompts.compact or int(visual[-1]) - int(visual[0]) + 1 != len(visual):
        order = keep.argsort()
        keep, features = keep[order], features[order]
    return TokenChoice(keep, features, score)
