"""as-vit: "Adaptive Sparse ViT", IJCAI 2023, arXiv 2209.13802 (methods/as-vit.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Self

import torch
from torch import Tensor

from ...errors import UsageError
from ...nets.as_vit import AdaptiveViT, head_weighted_score
from ..methods.base import Keep
from .base import StagedPruner
from .passes import pruned_images
from .ranked import best, checked_positions, stage_counts
from .site import ImageSite
from .stages import DropStage, MergeStages, PatchScores


@dataclass(frozen=True)
class AsViT(StagedPruner):
    """Patches whose class attention, heads weighted by importance, is above a threshold: more of busier pictures.

    Parameters
    ----------
    layer : int or None
        The first of three places at which patches are dropped; None: 4, 7, 10 of 12.
    blocks : tuple of int or None
        These places, each named.
    thresholds : tuple of float or None
        One for each place. None: those of a model that was trained with them; of others, quantiles of the scores that
        meet the budget on the pictures of ``fitted``, or else of the first batch that the model is given.
    batch_rule : {"each", "mean"}
        Each picture keeps what passes; or, as in the official code, each of a batch as many as pass on average.
    """

    layer: int | None = None
    blocks: tuple[int, ...] | None = None
    thresholds: tuple[float, ...] | None = None
    batch_rule: Literal["each", "mean"] = "each"

    def stages(self, site: ImageSite, keep: Keep) -> tuple[Sequence[DropStage], MergeStages | None]:
        method = self.trained(site)
        positions = checked_positions(site, method.layer, method.blocks)
        given = method.thresholds
        if given is not None and len(given) != len(positions):
            raise UsageError(f"thresholds: {len(given)} for {len(positions)} places, {', '.join(map(str, positions))}.")
        if given is None and keep.share == 1:
            return (), None
        found = list(given or ())

        def choose(stage: int, scores: PatchScores) -> Tensor:
            score = score_of(scores)
            if len(found) == stage:  # of the first batch
                own = score[scores.alive]
                found.append(quantile(own, scores.patches, len(score), keep, positions, site.depth, stage))
            passed = (score > found[stage]) & scores.alive
            return passed if self.batch_rule == "each" else batch_mean(score, passed, scores.alive)

        return [DropStage(layer, partial(choose, stage)) for stage, layer in enumerate(positions)], None

    def trained(self, site: ImageSite) -> AsViT:
        """With the thresholds of a model that was trained with them, unless others are given."""
        if self.thresholds is not None or not isinstance(model := site.model, AdaptiveViT):
            return self
        thresholds = tuple(float(threshold.detach()) for threshold in model.thresholds)
        return replace(self, blocks=model.positions, thresholds=thresholds)

    def fitted(self, site: ImageSite, batches: Sequence[Tensor], keep: Keep) -> tuple[Self, str]:
        if self.thresholds is None and isinstance(site.model, AdaptiveViT):
            return self, "the thresholds that the model was trained with say what is kept, whatever budget is asked for"
        if self.thresholds is not None or keep.share == 1:
            return self, ""
        positions = checked_positions(site, self.layer, self.blocks)
        thresholds = fit_thresholds(site, batches, keep, positions)
        shown = ", ".join(f"{value:.4g}" for value in thresholds)
        note = f"the thresholds of as-vit ({shown}) were fitted to the budget on these pictures themselves"
        return replace(self, thresholds=thresholds), note


def score_of(scores: PatchScores) -> Tensor:
    """Section 3.1, [B, n]."""
    assert scores.row is not None
    assert scores.context is not None
    return head_weighted_score(scores.context, scores.row)


def batch_mean(score: Tensor, passed: Tensor, alive: Tensor) -> Tensor:
    """Section 3.4, the official batches: every picture keeps as many of its best as pass on average."""
    return best(score, alive, int(passed.sum()) // len(passed))


def quantile(
    score: Tensor, patches: int, pictures: int, keep: Keep, positions: Sequence[int], depth: int, stage: int
) -> float:
    """The threshold that as many scores of all pictures pass as the budget has left behind a stage.

    Section 8: calibration without training.

    Parameters
    ----------
    score : Tensor [n]
        Of the patches that are there, of all pictures.
    patches, pictures : int
        Of each picture before anything was dropped, and how many pictures.
    keep : Keep
    positions : sequence of int
    depth, stage : int
    """
    share = min(1.0, keep.share or (keep.count or 0) / patches)
    ranked = score.sort(descending=True).values
    count = min(len(ranked), stage_counts(share, positions, depth, patches * pictures)[stage])
    if count == len(ranked):
        return float(ranked[-1]) / 2  # all of them: scores are not negative
    return float((ranked[count - 1].double() + ranked[count].double()) / 2)


@torch.no_grad()
def fit_thresholds(
    site: ImageSite, batches: Sequence[Tensor], keep: Keep, positions: Sequence[int]
) -> tuple[float, ...]:
    """Thresholds that meet the budget on average over pictures, stage by stage.

    Parameters
    ----------
    site : ImageSite
    batches : sequence of Tensor [B, C, H, W]
        Of one size.
    keep : Keep
    positions : sequence of int
    """
    found: list[float] = []
    for stage in range(len(positions)):
        pooled: list[PatchScores] = []
        drops = [
            DropStage(layer, partial(_passes, found, pooled, number))
            for number, layer in enumerate(positions[: stage + 1])
        ]
        for part in batches:
            with pruned_images(site, drops):
                site.model(part)
        score = torch.cat([score_of(scores)[scores.alive] for scores in pooled])
        pictures = sum(len(scores.alive) for scores in pooled)
        found.append(quantile(score, pooled[0].patches, pictures, keep, positions, site.depth, stage))
    return tuple(found)


def _passes(found: Sequence[float], pooled: list[PatchScores], stage: int, scores: PatchScores) -> Tensor:
    """What is above a threshold that is known; where none is, everything, and what it was seen by is kept."""
    if stage < len(found):
        return score_of(scores) > found[stage]
    pooled.append(scores)
    return scores.alive
