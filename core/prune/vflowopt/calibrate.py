"""`attn prune calibrate vflowopt`: the settings for one model and budget (methods/vflowopt.md, section 3.6)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import InputError
from ...io.atomic import write_text
from ...io.records import json_lines
from ...models.loaded import Loaded
from ...options import identity
from ...progress import Watcher
from ...report.model import Report, plain
from ...report.sections import Curve
from ..engine.hooks import pruned
from ..engine.moment import Moment, PruneStage, TokenChoice
from ..engine.sites import VisionLanguageSite, site_of
from ..learning import LearningRun
from ..methods.base import Keep
from ..vlm.ask import PreparedPrompt
from .bayes import Search, Vector
from .budget import mean_retention, third_stage
from .method import OF, SIDE, VFlowOpt
from .objective import LastTokens
from .options import FlowOptions
from .places import token_places
from .strategy import FlowStrategy

T, SIDES, ALPHA = (0.0, 50.0), (3.0, 24.0), (-1.0, 1.0)
"""The box of the released search, for a grid of 27 x 27."""


def calibrate_vflowopt(
    options: FlowOptions, *, watcher: Watcher | None = None, arguments: Mapping[str, Any] | None = None
) -> Report:
    """Search, and write the strategy.

    Raises
    ------
    UsageError
        If model, budget or data cannot be used.
    InputError
        If the data cannot be read.
    """
    run = LearningRun("vflowopt", options, options.common, watcher, arguments)
    taken = [prepared for _, (prepared,) in run.questions()]
    share = float(options.keep)
    loaded, keep = run.loaded, Keep(share=share)
    tokens = LastTokens(loaded, taken)
    site = site_of(loaded.model)
    layers = VFlowOpt().layers_in(site)
    marks = tuple(run.marks)
    mean, std = normalisation(loaded)
    box = search_box(share, *reach(site, loaded, taken))
    if not mean:
        run.warnings.append("the image processor does not say how it normalises: entropy is left out (alpha = 0)")
        box[2] = (0.0, 0.0)
    search = Search(
        box, seed=options.common.compute.seed, initial=options.initial, known=plain_points(share, box),
        allowed=partial(feasible, share, layers, site.depth),
    )  # fmt: skip
    known = Tried(
        options.common.output.with_suffix(".search.jsonl"),
        plain({
            **identity(options), "model": loaded.fingerprint, "split": marks, "box": box,
            "stage1_positions": VFlowOpt().stage1_positions,
        }),
        run.warnings,
    )  # fmt: skip

    def strategy(point: Vector) -> FlowStrategy:
        t, side, alpha, first, second = (float(value) for value in point)
        return FlowStrategy(
            share, t, alpha, side, first, second, None, layers, VFlowOpt().vision_layer_in(site), "mean",
            mean, std, loaded.fingerprint, marks, stage1_positions=VFlowOpt().stage1_positions,
        )  # fmt: skip

    for number in range(options.iterations):
        point = search.ask()
        value = known.value(number, point)
        if value is None:
            value = float(tokens.cosines(VFlowOpt.of(strategy(point)), keep).mean())
            known.add(point, value)
        search.tell(point, value)
        run.watcher.step(f"search, best {max(search.values):.4f}", number + 1, options.iterations)
    unoptimised = float(tokens.cosines(VFlowOpt(), keep).mean())
    best = strategy(search.points[search.best])
    metrics = {
        "cosine": search.values[search.best], "cosine_plain": unoptimised,
        "cosine_first": max(search.values[: options.initial]), "samples": len(taken),
        "t": best.t, "alpha": best.alpha, "side": best.side, "r1": best.first, "r2": best.second,
        "r3": min(1.0, third_stage(share, best.first, best.second, layers, site.depth)),
    }  # fmt: skip
    if metrics["cosine"] < unoptimised:
        run.warnings.append(
            f"the plain settings come nearer ({unoptimised:.4f}) than the best that was found "
            f"({metrics['cosine']:.4f}): search longer, or use none"
        )
    found = {
        **metrics, "seed": options.common.compute.seed, "data": options.common.data, "iterations": options.iterations
    }  # fmt: skip
    replace(best, found=plain(found)).write(options.common.output)
    curve = Curve("search", {"best": np.maximum.accumulate(search.values).tolist(), "value": list(search.values)})
    return run.report(metrics, sections=(curve,), files={"search": known.path}, details={"layers": list(layers)})


class Tried:
    """What a search tried, kept line by line beside its result, so that one that was stopped goes on.

    Parameters
    ----------
    path : Path
    settings : mapping
        Of the search; lines of another one are not taken.
    warnings : list of str
        Grows by what the user must know.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], warnings: list[str]) -> None:
        self.path = path
        self.lines: list[dict[str, Any]] = []
        settings = json.loads(json.dumps(settings))
        if path.exists():
            try:
                head, *self.lines = [record for _, record in json_lines(path)] or [{}]
            except InputError as error:
                warnings.append(f"{error.reason}: the search begins anew")
            else:
                if head != settings:
                    self.lines = []
                    warnings.append(f"{path.name} is of a search with other settings, model or data: begun anew")
        if not self.lines:
            write_text(path, json.dumps(settings) + "\n")

    def value(self, number: int, point: Vector) -> float | None:
        """What a point came to before; None where it was not tried, as the ``number``-th."""
        if number >= len(self.lines) or self.lines[number].get("point") != point.tolist():
            return None
        return float(self.lines[number]["value"])

    def add(self, point: Vector, value: float) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"point": point.tolist(), "value": value}) + "\n")


def search_box(keep: float, largest: float, side: int) -> list[tuple[float, float]]:
    """Of t, a, alpha, R1, R2.

    Parameters
    ----------
    keep : float
    largest : float
        Attention that any patch receives, over the mean: beyond it no patch is important.
    side : int
        Of the largest grid of tokens.
    """
    low, high = (max(1.0, length * side / OF) for length in SIDES)
    return [(T[0], min(T[1], largest)), (low, high), ALPHA, (keep, min(1.0, 1.5 * keep)), (0.8 / 1.5, 1.0)]


def plain_points(keep: float, box: Sequence[tuple[float, float]]) -> list[Vector]:
    """Settings that the search begins with: all patches are important (t = 0), or those above the mean (t = 1)."""
    side = box[1][1] * SIDE / SIDES[1]
    return [np.array([t, side, 0.0, min(1.0, 1.2 * keep), 0.8]) for t in (0.0, 1.0)]


def feasible(keep: float, layers: tuple[int, int], depth: int, point: Vector) -> bool:
    """Stage 3 has something left, and all of the budget is spent."""
    first, second = float(point[3]), float(point[4])
    third = third_stage(keep, first, second, layers, depth)
    spent = mean_retention((first, second, min(1.0, third)), layers, depth)
    return third > 0 and spent > keep - 1e-3


@torch.no_grad()
def reach(site: VisionLanguageSite, loaded: Loaded, questions: Sequence[PreparedPrompt]) -> tuple[float, int]:
    """The largest attention that a patch receives over the mean of its view, and the side of the largest grid."""
    layer = VFlowOpt().vision_layer_in(site)
    largest: list[float] = []
    side: list[int] = []

    def look(moment: Moment) -> list[TokenChoice]:
        tower = moment.prompts.tower
        assert tower is not None
        received = tower.among_patches(layer)
        sums = torch.zeros(len(tower.grids), device=received.device).index_add(0, tower.views, received.mean(1))
        counts = tower.views.bincount()
        largest.append(float((received / (sums / counts)[tower.views][:, None]).max()))
        side.extend(token_places(cells, tower.views, tower.grids).side for cells in tower.cells)
        return [TokenChoice(numbers) for numbers in moment.numbers]

    for prepared in questions:
        with pruned(loaded.model, [PruneStage(0, look, tower=(layer,))], site=site):
            loaded.model(**prepared.inputs)
    return max(largest), max(side)


def normalisation(loaded: Loaded) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation that the image processor takes pictures by; empty where it does not."""
    images = loaded.processor.joint.image_processor
    mean, std = (tuple(getattr(images, name, None) or ()) for name in ("image_mean", "image_std"))
    return (mean, std) if len(mean) == len(std) == 3 and getattr(images, "do_normalize", True) else ((), ())
