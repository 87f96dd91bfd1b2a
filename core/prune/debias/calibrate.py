"""`attn prune calibrate debias`: the trend of a model's scores (methods/attention-debias.md, sections 3.2 and 5)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import UsageError
from ...models.loaded import Loaded
from ...progress import Watcher
from ...report.model import Report
from ...report.sections import Curve
from ..engine.hooks import pruned
from ..engine.moment import Moment
from ..engine.sites import site_of
from ..learning import LearningRun
from ..methods.base import Keep, Pruner
from ..named import pruner_of
from ..vlm.ask import PreparedPrompt
from .fitted import FittedTrend, shape_of, write_trend
from .options import DebiasOptions
from .places import pictures_of
from .trend import fit_trend

ENOUGH, USUAL = 50, 200
"""Pictures that a trend needs, and that it is fitted to (section 4)."""


class ScoreMean:
    """A ``Modifier`` that changes nothing, and averages the scores of a method's first stage over pictures.

    Parameters
    ----------
    count : int
        Pictures so far.
    layer : int
        In front of which the method chose.
    lengths : set of int
        Visual tokens of a picture, as they came.
    """

    def __init__(self) -> None:
        self.count, self.layer, self.lengths = 0, -1, set[int]()
        self._sum: NDArray[np.float64] = np.zeros(0)

    def __call__(self, moment: Moment, scores: list[Tensor]) -> list[Tensor]:
        if "debias.calibrated" not in moment.prompts.cache:
            moment.prompts.cache["debias.calibrated"] = True
            self.layer = moment.layer
            for sample, score in enumerate(scores):
                for picture in pictures_of(moment.prompts, sample):
                    self.add(score[picture.start : picture.stop].double().cpu().numpy())
        return scores

    def add(self, score: NDArray[np.float64]) -> None:
        """The scores of one picture [L]; those of another length are stretched to that of the first."""
        self.lengths.add(len(score))
        if not self.count:
            self._sum = np.zeros(len(score))
        length = len(self._sum)
        if len(score) != length:
            x = np.arange(length) / length
            score = np.interp(x, np.arange(len(score)) / len(score), score) * len(score) / length
        self._sum += score
        self.count += 1

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean score of each position, [L]."""
        return self._sum / self.count


def mean_scores(loaded: Loaded, pruner: Pruner, questions: Iterable[PreparedPrompt]) -> ScoreMean:
    """Scores of a method's first stage, averaged over questions, with all visual tokens there."""
    mean, site = ScoreMean(), site_of(loaded)
    stages = replace(pruner, modifiers=(mean,)).stages(site, Keep(share=1.0))
    for prepared in questions:
        with torch.no_grad(), pruned(site.model, stages, site=site, pictures=(prepared.pictures,)):
            site.model(**prepared.inputs)
    return mean


def calibrate_debias(
    options: DebiasOptions, *, watcher: Watcher | None = None, arguments: Mapping[str, Any] | None = None
) -> Report:
    """Fit the trend of a model's scores over positions, and write it.

    Raises
    ------
    UsageError
        If the method looks at no attention, or model, layer or data cannot be used.
    InputError
        If the data cannot be read.
    """
    run = LearningRun("debias", options, options.common, watcher, arguments)
    pruner = pruner_of(f"{options.method}+debias", {} if options.layer is None else {"layer": options.layer})
    mean = mean_scores(run.loaded, pruner, (prepared for _, (prepared,) in run.questions()))
    try:
        trend = fit_trend(mean.mean, options.fit)
    except (ValueError, RuntimeError) as error:
        raise UsageError(f"no trend could be fitted to the scores of {options.method}: {error}.") from None
    if mean.count < ENOUGH:
        run.warnings.append(
            f"{mean.count} pictures: a trend of fewer than {ENOUGH} is mostly their content; take {USUAL}"
        )
    length = len(mean.mean)
    if len(mean.lengths) > 1:
        counts = f"{min(mean.lengths)} to {max(mean.lengths)}"
        run.warnings.append(f"pictures have {counts} visual tokens: their scores were stretched to {length}")
    fitted = FittedTrend(
        trend, run.common.choice.model, run.loaded.fingerprint, shape_of(site_of(run.loaded)), options.method,
        mean.layer, length, options.fit, mean.count, run.common.data, run.split, tuple(run.marks),
    )  # fmt: skip
    write_trend(run.common.output, fitted)
    x = np.arange(length) / length
    lines = {"mean score": mean.mean.tolist(), "trend": (trend.mu * trend.shape(x)).tolist()}
    metrics = {
        "sigma": trend.sigma, "mu": trend.mu, "residual": trend.residual, "layer": mean.layer,
        "visual_tokens": length, "samples": mean.count,
    }  # fmt: skip
    curve = Curve("scores", lines, list(range(length)), "position", title="mean score by position", detail=True)
    return run.report(metrics, sections=(curve,), details={"method": options.method, "fit": options.fit})
