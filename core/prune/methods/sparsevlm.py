"""SparseVLM, ICML 2025, and its second version "+" (methods/pruning-peers.md, section 3.4): rated by telling words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ...errors import UsageError
from ..engine.moment import Moment, PruneStage, TokenChoice
from ..engine.prompts import Prompts
from ..engine.rows import rotated_ones
from ..engine.sites import VisionLanguageSite
from .base import Keep, Pruner, Schedule, largest, standing, top

LAYERS = (3, 7, 16)
"""In front of which tokens are gone; the paper counts the layers 2, 6 and 15, whose output is pruned."""
TOKENS = 576
KEPT = ((300, 200, 110), (303, 110, 36), (238, 48, 26), (66, 30, 17))
"""Tokens that are kept at each stage for a mean budget of 192, 128, 96 and 64; merged ones come on top."""
KEPT_PLUS = ((300, 200, 118), (238, 108, 60), (246, 54, 28), (66, 34, 20))
HEADS = 14


@dataclass(frozen=True)
class SparseVLM(Pruner):
    """Tokens by the attention of those words of the question that tell; of the rest, the best are merged.

    Merged tokens count as kept ones: the budget holds for what the next layer sees.

    Parameters
    ----------
    layers : tuple of int, optional
        In front of which tokens go; default: 3, 7 and 16 of 32, scaled.
    plus : bool
        The second version: nothing is merged, attention is divided by what positions alone give, and only the heads
        that look at the picture most are asked.
    """

    attentive = True

    layers: tuple[int, ...] | None = None
    plus: bool = False

    def stages(self, site: VisionLanguageSite, keep: Keep) -> Sequence[PruneStage]:
        rows = KEPT_PLUS if self.plus else tuple(map(with_merged, KEPT))
        shares = [[count / TOKENS for count in row] for row in rows]
        schedule = Schedule.of(LAYERS, shares, site.depth, self.layers)

        def choose(stage: int, moment: Moment) -> list[TokenChoice]:
            raters = [raters_of(moment.prompts, sample) for sample in range(moment.prompts.samples)]
            rows = [places_of(moment, sample, positions) for sample, positions in enumerate(raters)]
            scores = [
                self.score(moment, sample, rows[sample], attention)
                for sample, attention in enumerate(moment.attention(rows))
            ]
            return [
                self.one(moment, sample, score, schedule.counts(keep, moment.prompts.counts[sample])[stage])
                for sample, score in enumerate(self.modified(moment, scores))
            ]

        return [
            PruneStage(layer, partial(choose, stage), attention=("previous",))
            for stage, layer in enumerate(schedule.layers)
        ]

    def score(self, moment: Moment, sample: int, rows: Tensor, attention: Tensor) -> Tensor:
        """Mean attention [H, R, n] of a prompt's raters to its visual tokens, [n]."""
        if self.plus:
            assert moment.previous is not None
            attention = attention / rotated_ones(moment.previous, sample, rows)[:, moment.places[sample]]
            looking = attention.sum((1, 2)).topk(min(HEADS, len(attention))).indices
            attention = attention[looking]
        return attention.mean((0, 1))

    def one(self, moment: Moment, sample: int, score: Tensor, count: int) -> TokenChoice:
        """The choice for one prompt."""
        numbers = moment.numbers[sample]
        there = score > -torch.inf  # others can neither stay nor be merged
        present = int(there.sum())
        kept = present if count >= present else kept_beside_merged(present, count)
        if self.plus or count >= present or kept == count:
            return top(score, numbers, count)
        features = moment.hidden[sample, moment.places[sample]]
        best = largest(score, kept)
        there[best] = False
        rest = there.nonzero().flatten()
        again = rest[score[rest].topk(recycled(len(rest))).indices]
        centres, merged = clustered(features[again], min(clusters(len(rest)), count - kept))
        order = torch.cat([best, again[centres]])
        return standing(moment.prompts, sample, numbers[order], torch.cat([features[best], merged]), score)


def raters_of(prompts: Prompts, sample: int) -> Tensor:
    """Positions of the words behind the picture that its tokens are nearest to, [R] int64; all, where none stands out.

    Raises
    ------
    UsageError
        If no text follows the picture.
    """
    text = prompts.text_after(sample)
    if not len(text):
        raise UsageError("sparsevlm: no text follows the picture, so that no word of a question can rate its tokens.")
    assert prompts.embeds is not None
    nearness = rater_score(prompts.embeds[sample, prompts.visual[sample]], prompts.embeds[sample, text])
    raters = text[nearness > nearness.mean()]
    return raters if len(raters) else text


def rater_score(visual: Tensor, text: Tensor) -> Tensor:
    """How much visual tokens [V, D] are like each word [T, D]: mean over them of a softmax over words, [T]."""
    return (visual.float() @ text.float().mT).softmax(1).mean(0)


def places_of(moment: Moment, sample: int, positions: Tensor) -> Tensor:
    """Where tokens of a prompt that were never taken out are among the rows, int64."""
    rows = moment.alive[sample].nonzero().flatten()
    where = rows.new_zeros(moment.prompts.input_ids.shape[1])
    where[moment.positions[sample, rows]] = rows
    return where[positions]


def recycled(dropped: int) -> int:
    """How many of the dropped tokens are merged."""
    return int(dropped * 0.3) + 1


def clusters(dropped: int) -> int:
    """Into how many."""
    return recycled(dropped) // 10 + 1


def with_merged(kept: Sequence[int]) -> tuple[int, ...]:
    """Tokens that are left at each stage, merged ones included, from those that are kept."""
    left, total = [], TOKENS
    for count in kept:
        total = count + clusters(total - count)
        left.append(total)
    return tuple(left)


def kept_beside_merged(tokens: int, count: int) -> int:
    """How many of so many tokens are kept, at least one, such that they are ``count`` with the merged ones."""
    kept = count
    while kept > 1 and kept + clusters(tokens - kept) > count:
        kept -= 1
    return kept


def clustered(features: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Tokens merged into clusters around peaks of density.

    Parameters
    ----------
    features : Tensor [m, D]
    count : int
        Of clusters, and of the neighbours that say how dense it is.

    Returns
    -------
    centres : Tensor of int64 [count]
        The denser and the farther from anything denser, the earlier.
    merged : Tensor [count, D]
        Means of the clusters.
    """
    x = features.float()
    distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist") / math.sqrt(x.shape[1])
    near = distance.topk(min(count, len(x)), largest=False).values
    noise = torch.rand(len(x), generator=torch.Generator().manual_seed(0)).to(x.device)
    density = (-near.square().mean(1)).exp() + 1e-6 * noise
    denser = density[None] > density[:, None]
    delta = torch.where(denser, distance, distance.max()).min(1).values
    centres = (density * delta).topk(count).indices
    nearest = distance[:, centres].argmin(1)
    nearest[centres] = torch.arange(count, device=x.device)
    sizes = nearest.bincount(minlength=count)
    merged = x.new_zeros(count, x.shape[1]).index_add(0, nearest, x / (sizes[nearest, None] + 1e-6))
    return centres, merged.to(features.dtype)
