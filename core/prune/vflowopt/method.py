"""VFlowOpt: three stages of pruning by one importance map of the image tower; pruned tokens come back merged.

Paper: "VFlowOpt: A Token Pruning Framework for LMMs with Visual Information Flow-Guided Optimization", ICCV 2025, arXiv
2508.05211. Specification: methods/vflowopt.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from ...errors import UsageError
from ...options import OptionError
from ..data.samples import QuestionSample
from ..engine.moment import Moment, PruneStage, TokenChoice
from ..engine.sites import VisionLanguageSite
from ..engine.tower import feature_layer
from ..methods.base import Keep, Pruner, largest, layer_of
from .budget import even_stages, second_count, solved, third_count
from .importance import Reduce
from .maps import FlowMap, flow_map
from .recycle import grid_cells, most_important, recycle, without_least
from .strategy import FlowStrategy, read_strategy

SIDE, OF = 12.0, 27
"""Side of a cell where none is given: that of the released 50 % strategy, of a grid of 27 x 27 tokens."""
_CACHED = "vflowopt"


@dataclass(frozen=True)
class VFlowOpt(Pruner):
    """Stage 1 in front of the language model, with recycling; stages 2 and 3 inside it, by the same map.

    Parameters
    ----------
    calibration : Path, optional
        A strategy that ``attn prune calibrate vflowopt`` found; it gives all that follows. Without one a plain default:
        t = 1, and R1 = R2 = R3 as the budget asks for.
    t : float
        Patches that receive more than t times the mean attention say what is important.
    alpha : float
        Weight of the entropy of grey values; needs ``pixel_mean`` and ``pixel_std``.
    side : float, optional
        Of a cell, in tokens: a. None: 12 of 27.
    first, second, third : float, optional
        R1, R2, R3. R1 and R2 None: all equal. R3 None: what is left of the budget, counted in each prompt.
    second_layer, third_layer : int, optional
        None: 10 and 20 of 32, scaled to the depth (9 and 18 of 28).
    vision_layer : int, optional
        Of the tower, from 0. None: the one whose output the projector gets; the last one without windows.
    reduce : {"mean", "sum"}
        Over the important patches: the code and the released settings, or the paper.
    pixel_mean, pixel_std : tuple of float
        Of the image processor.
    stage1_positions : {"keep", "compact"}
        Behind stage 1 tokens keep their positions, as the paper says, or are numbered anew, as the released code does
        (and the specification's default is): on the models tried here that costs most of the accuracy. Inside the
        language model they keep them. Where positions are rows and columns they are always kept; a note says so.
    """

    calibration: Path | None = None
    t: float = 1.0
    alpha: float = 0.0
    side: float | None = None
    first: float | None = None
    second: float | None = None
    third: float | None = None
    second_layer: int | None = None
    third_layer: int | None = None
    vision_layer: int | None = None
    reduce: Reduce = "mean"
    pixel_mean: tuple[float, ...] = ()
    pixel_std: tuple[float, ...] = ()
    stage1_positions: Literal["keep", "compact"] = "keep"

    def __post_init__(self) -> None:
        for name in ("first", "second", "third"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise UsageError(f"vflowopt: {name} {value} is no share above 0 and up to 1.")
        if (self.first is None) != (self.second is None) or (self.first is None and self.third is not None):
            raise UsageError("vflowopt: first and second go together, and third with them; or give none of them.")
        if self.stage1_positions not in ("keep", "compact"):
            raise UsageError(f"vflowopt: stage1_positions {self.stage1_positions!r} is neither keep nor compact.")
        if self.side is not None and self.side < 1:
            raise UsageError(f"vflowopt: side {self.side}: a cell is 1 token wide at least.")
        if self.alpha and (len(self.pixel_mean) != 3 or len(self.pixel_std) != 3):
            raise UsageError(
                "vflowopt: alpha asks for the entropy of true grey values: give pixel_mean and pixel_std, the "
                "image_mean and image_std of the model's image processor."
            )

    def stages(self, site: VisionLanguageSite, keep: Keep) -> Sequence[PruneStage]:
        own = self.resolved(keep)
        layers = own.layers_in(site)
        vision = own.vision_layer_in(site)
        if own.first is not None and own.third is None and keep.share is not None and keep.share < 1:
            assert own.second is not None
            solved(keep.share, own.first, own.second, layers, site.depth)
        before = partial(_before, own, keep, layers, vision, self.warnings(site))
        return [
            PruneStage(0, before, tower=(vision,), renumber=own.stage1_positions == "compact"),
            PruneStage(layers[0], partial(_second, own, keep, layers)),
            PruneStage(layers[1], partial(_third, own, keep, layers)),
        ]

    def keep_for(self, site: VisionLanguageSite, retention: float) -> Keep:
        """The mean over all layers: the first stage is in front of all of them."""
        return Keep(share=retention)

    def resolved(self, keep: Keep) -> VFlowOpt:
        """With the settings of the strategy file. Raises ``UsageError`` if that is for another budget."""
        if self.calibration is None:
            return self
        found = read_strategy(self.calibration)
        if keep.share is None or abs(keep.share - found.keep) > 1e-6:
            asked = f"{keep.share:.4g}" if keep.share is not None else f"{keep.count} tokens"
            raise OptionError(
                f"{{keep}}: the strategy in {self.calibration} was found for a mean share of {found.keep:.4g}, not for "
                f"{asked}. Ask for that, or calibrate another."
            )
        return self.of(found)

    def warnings(self, site: VisionLanguageSite) -> tuple[str, ...]:
        """What a user must know of the settings in this model."""
        if self.calibration is None:
            return ()
        found = read_strategy(self.calibration)
        if not found.fits(site.fingerprint):
            return (
                f"vflowopt: the strategy in {self.calibration} was found for other weights; calibrate it for these",
            )
        return ()

    def check_held_out(self, samples: Iterable[QuestionSample]) -> None:
        if self.calibration is not None:
            read_strategy(self.calibration).check_held_out(samples)

    @classmethod
    def of(cls, found: FlowStrategy) -> VFlowOpt:
        """The method with the settings of a strategy."""
        reduce: Any = found.reduce
        positions: Any = found.stage1_positions
        return cls(
            t=found.t, alpha=found.alpha, side=found.side, first=found.first, second=found.second, third=found.third,
            second_layer=found.layers[0], third_layer=found.layers[1], vision_layer=found.vision_layer, reduce=reduce,
            pixel_mean=found.pixel_mean, pixel_std=found.pixel_std, stage1_positions=positions,
        )  # fmt: skip

    def layers_in(self, site: VisionLanguageSite) -> tuple[int, int]:
        """In front of which stages 2 and 3 are. Raises ``UsageError`` where the model has too few layers."""
        second, third = layer_of(10, site.depth, self.second_layer), layer_of(20, site.depth, self.third_layer)
        if not 0 < second < third < site.depth:
            raise UsageError(
                f"vflowopt: stages 2 and 3 in front of layers {second} and {third}: they must be two of layers 1 to "
                f"{site.depth - 1}, in order."
            )
        return second, third

    def vision_layer_in(self, site: VisionLanguageSite) -> int:
        """The layer of the tower whose attention is looked at (section 12)."""
        if self.vision_layer is not None:
            return self.vision_layer
        full: Sequence[int] | None = getattr(site.tower.config, "fullatt_block_indexes", None)
        return max(full) if full else feature_layer(site)


def _before(
    method: VFlowOpt, keep: Keep, layers: tuple[int, int], vision: int, told: tuple[str, ...], moment: Moment
) -> list[TokenChoice]:
    """Stage 1 (section 3.3)."""
    for text in told:
        moment.prompts.note(text)
    if method.stage1_positions == "compact" and moment.prompts.site.has_grid_positions:
        moment.prompts.note("vflowopt: positions are rows and columns in this model; behind stage 1 they are kept")
    flow = flow_map(
        moment, vision, t=method.t, alpha=method.alpha, reduce=method.reduce, pixel_mean=method.pixel_mean,
        pixel_std=method.pixel_std,
    )  # fmt: skip
    moment.prompts.cache[_CACHED] = flow
    choices = []
    for sample, (values, places) in enumerate(zip(flow.tokens, flow.places, strict=True)):
        n = len(values)
        retention = method.first
        if retention is None:
            retention = even_stages(keep.share_of(n), layers, moment.prompts.site.depth)
        pictures = flow.pictures[sample]
        if n and int(pictures.max()) > 0:  # several pictures: the best of each, no recycling (section 3.2)
            parts = [(pictures == number).nonzero().flatten() for number in range(int(pictures.max()) + 1)]
            kept = [part[largest(values[part], max(1, round(len(part) * retention)))] for part in parts]
            choices.append(TokenChoice(torch.cat(kept).sort().values, score=values))
            continue
        side = method.side if method.side is not None else max(1.0, SIDE * places.side / OF)
        cells = grid_cells(places.rows, places.columns, places.sheets, side)
        features = moment.hidden[sample, moment.places[sample]]
        found = recycle(values, features, cells, retention, side)
        choices.append(TokenChoice(found.keep, found.features if found.cells else None, values))
    flow.left[:] = [len(choice.keep) for choice in choices]
    return choices


def _second(method: VFlowOpt, keep: Keep, layers: tuple[int, int], moment: Moment) -> list[TokenChoice]:
    """Stage 2 (section 3.4)."""
    flow: FlowMap = moment.prompts.cache[_CACHED]
    choices = []
    for values, numbers in zip(flow.tokens, moment.numbers, strict=True):
        here = values[numbers]
        if method.third is not None:
            assert method.second is not None
            left = most_important(here, method.second)
        else:
            total = keep.share_of(len(values)) * len(values) * moment.prompts.site.depth
            count = second_count(total, len(here), method.second, layers, moment.prompts.site.depth)
            left = without_least(here, len(here) - count)
        choices.append(TokenChoice(numbers[left], score=here))
    return choices


def _third(method: VFlowOpt, keep: Keep, layers: tuple[int, int], moment: Moment) -> list[TokenChoice]:
    """Stage 3: R3, or as many as are left of the budget by what stages 1 and 2 did leave."""
    flow: FlowMap = moment.prompts.cache[_CACHED]
    depth = moment.prompts.site.depth
    choices = []
    for values, before, numbers in zip(flow.tokens, flow.left, moment.numbers, strict=True):
        here = values[numbers]
        if method.third is not None:
            left = most_important(here, method.third)
        else:
            total = keep.share_of(len(values)) * len(values) * depth
            count = third_count(total, before, len(here), layers, depth)
            if count < min(1, len(here)):
                moment.prompts.note(
                    "vflowopt: stage 1 left more tokens than the budget has for all layers; one goes on behind stage "
                    "3. The counts tell what was left"
                )
            left = without_least(here, len(here) - max(min(1, len(here)), count))
        choices.append(TokenChoice(numbers[left], score=here))
    return choices
