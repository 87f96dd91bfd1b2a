"""PyramidDrop, CVPR 2025 (methods/pruning-peers.md, section 3.3): fewer tokens from stage to stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from ...errors import UsageError
from ..engine.moment import Moment, PruneStage, TokenChoice
from ..engine.sites import VisionLanguageSite
from .base import Keep, Pruner, Schedule, top

LAYERS = (8, 16, 24)
"""The paper's, of 32."""


@dataclass(frozen=True)
class PyramidDrop(Pruner):
    """At every stage, the tokens that the last prompt token will attend to most in the layer that comes next.

    Parameters
    ----------
    layers : tuple of int, optional
        In front of which tokens go; default: the paper's, scaled.
    ratios : tuple of float
        What is left at each stage of all visual tokens, at the budget of the paper; for others they are scaled.
    """

    attentive = True

    layers: tuple[int, ...] | None = None
    ratios: tuple[float, ...] = (0.5, 0.25, 0.125)

    def __post_init__(self) -> None:
        stages = LAYERS if self.layers is None else self.layers
        falling = list(self.ratios) == sorted(self.ratios, reverse=True)
        if len(self.ratios) != len(stages) or not falling or not all(0 < ratio <= 1 for ratio in self.ratios):
            shown = ", ".join(f"{ratio:g}" for ratio in self.ratios)
            raise UsageError(f"ratios: {len(stages)} shares are wanted, none above the one before it, not {shown}.")

    def stages(self, site: VisionLanguageSite, keep: Keep) -> Sequence[PruneStage]:
        schedule = Schedule.of(self.layers or LAYERS, [self.ratios], site.depth, self.layers)

        def choose(stage: int, moment: Moment) -> list[TokenChoice]:
            rows = moment.attention(moment.last_rows(), "next")  # [H, 1, n]
            scores = self.modified(moment, [row.mean((0, 1)) for row in rows])
            return [
                top(score, numbers, schedule.counts(keep, before)[stage])
                for score, numbers, before in zip(scores, moment.numbers, moment.prompts.counts, strict=True)
            ]

        return [
            PruneStage(layer, partial(choose, stage), attention=("next",))
            for stage, layer in enumerate(schedule.layers)
        ]
