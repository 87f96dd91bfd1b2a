"""FastV: "An Image is Worth 1/2 Tokens After Layer 2", ECCV 2024 (methods/pruning-peers.md, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..engine.moment import Moment, PruneStage, TokenChoice
from ..engine.sites import VisionLanguageSite
from .base import Keep, Pruner, layer_of, top


@dataclass(frozen=True)
class FastV(Pruner):
    """The tokens that the last prompt token attends to most in the layer in front of ``layer``.

    Parameters
    ----------
    layer : int, optional
        Default: the third of 32 layers, or what that is in a model of another depth.
    """

    attentive = True

    layer: int | None = None

    def stages(self, site: VisionLanguageSite, keep: Keep) -> Sequence[PruneStage]:
        def choose(moment: Moment) -> list[TokenChoice]:
            rows = moment.attention(moment.last_rows())  # [H, 1, n]
            scores = self.modified(moment, [row.mean((0, 1)) for row in rows])
            return [
                top(score, numbers, keep.of(before))
                for score, numbers, before in zip(scores, moment.numbers, moment.prompts.counts, strict=True)
            ]

        return [PruneStage(layer_of(2, site.depth, self.layer), choose, attention=("previous",))]
