"""`attn probe relevance shapes…`: drawn pictures, of which it is known where the object is.

Specification: methods/salient-relevance.md, section 6: pixel flipping, and the pointing game (Zhang et al., "Top-down
Neural Attention by Excitation Backprop", IJCV 2018, arXiv 1608.00507).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import attn

from ...errors import UsageError
from ...options import values
from ...progress import Bars, Watcher
from ...prune.data.drawn import drawn_classes
from ...prune.measure.statistics import mean_interval, wilson
from ...prune.shapes.labelled import CLASSES, LabelledScenes
from ...report.model import Item, Report, command_line_of, summarise
from ...report.sections import Table, Trust, TrustLine
from ..frame import request_of, scenes_figure, settings_of
from ..panel import FigureData, FigureFile, Origin, write_figure
from ..trust.lines import UNTRAINED, line
from ..trust.randomised import randomised
from .chain import chain_of
from .look import Looker
from .options import RelevanceOptions
from .propagate import gradient_times_input, propagate
from .regions import heat_map

FIGURE = "relevance-scenes"
MAPS = ("relevance", "salient", "gradient", "random")
JUDGED = 30
"""Pictures whose maps are compared to those of randomised models."""


def look_at_scenes(
    options: RelevanceOptions, looker: Looker, watcher: Watcher | None, arguments: Mapping[str, Any] | None,
    start: float,
) -> Report:  # fmt: skip
    """Four maps of every picture: how often they point at the object, and what deletion and insertion give.

    Raises
    ------
    UsageError
        If the classes of the model are not those of the pictures, or nothing is to be drawn.
    """
    path = scenes_figure(options.inputs.output, "relevance")
    if looker.loaded.labels != CLASSES:
        raise UsageError(f"{options.model} has other classes than drawn pictures. Use shapes-cnn, or one like it.")
    scenes, told = drawn_classes(options.inputs.scenes, options.seed), watcher or Bars()
    of = len(scenes) + UNTRAINED
    found, right, kept = [], [], []
    for number in range(len(scenes)):
        measured, correct, conserved = _measured(looker, scenes, number, removal=options.trust)
        found.append(measured)
        right.append(correct)
        kept.append(conserved)
        told.step("pictures", number + 1, of)
    rows = [_row(name, [one[name] for one in found]) for name in MAPS]
    lines: tuple[TrustLine, ...] = ()
    if options.trust:
        few = range(min(JUDGED, len(scenes)))
        untrained = []
        for number in range(UNTRAINED):
            with randomised(looker.loaded.model, options.seed + 1 + number):
                untrained.append(float(np.mean([_points(looker, scenes, one) for one in few])))
            told.step("randomised models", len(scenes) + number + 1, of)
        meaning = f"share of {len(few)} pictures whose largest relevance lies in the object's box"
        own = float(np.mean([_points(looker, scenes, one) for one in few]))
        lines = (line("pointing game", own, untrained, meaning),)
    seconds = time.perf_counter() - start
    accuracy = wilson(sum(right), len(right))
    metrics: dict[str, float] = {
        "accuracy": accuracy.value, "accuracy_low": accuracy.low, "accuracy_high": accuracy.high,
        "conserved": float(np.median(kept)), **{f"pointing_{name}": row["pointing"] for name, row in
                                              zip(MAPS, rows, strict=True)},
    }  # fmt: skip
    sections = (
        *([Trust("trust", lines)] if lines else []),
        Table("maps", rows, title="Maps side by side; the box is the object's"),
    )
    told_of = arguments or values(options)
    data = FigureData(
        FIGURE, f"{options.inputs.scenes}, {options.model}", _arrays(rows),
        {"maps": list(MAPS), "rules": options.rules},
        Origin(command_line_of(told_of), options.model, looker.loaded.fingerprint, seed=options.seed,
               request=request_of(looker.loaded.fingerprint, settings_of(options))),
    )  # fmt: skip
    files = write_figure(path, data, metrics=metrics, sections=sections)
    item = Item(
        options.inputs.scenes, str(path), "ok", seconds, metrics=metrics, files=files,
        details={"model": options.model, "rules": options.rules, "conserved_mean": float(np.mean(kept))},
        sections=sections,
    )  # fmt: skip
    device = str(next(looker.loaded.model.parameters()).device)
    return Report("probe", attn.__version__, told_of, device, seconds, (item,), summarise([item]))


def _prepared(looker: Looker, scenes: LabelledScenes, number: int) -> torch.Tensor:
    images = looker.loaded.processor.images
    assert images is not None
    return images(scenes.pictures[number].transpose(2, 0, 1).astype(np.float32) / 255)


def _measured(
    looker: Looker, scenes: LabelledScenes, number: int, *, removal: bool
) -> tuple[dict[str, dict[str, float]], bool, float]:
    """What each map of a picture comes to; whether its class is right; how much of the relevance was kept."""
    pixels, box = _prepared(looker, scenes, number), scenes.box[number].tolist()
    links = chain_of(looker.loaded.model)
    relevance = propagate(links, looker.rules, looker.batch(pixels), int(scenes.label[number]))
    gradient = gradient_times_input(links, looker.batch(pixels), relevance.target)
    maps = {
        "relevance": relevance.pixels.sum(0).cpu().numpy(), "salient": looker.salient(heat_map(relevance.pixels)),
        "gradient": gradient.sum(0).cpu().numpy(),
        "random": np.random.default_rng([looker.seed, number]).random(pixels.shape[1:]),
    }  # fmt: skip
    out = {}
    for name, values_of in maps.items():
        out[name] = {"pointing": float(points_at(values_of, box)), "inside": share_inside(values_of, box)}
        if removal:
            gone = looker.removal(links, pixels, values_of, relevance.target)
            out[name] |= {"deletion": gone.deletion, "insertion": gone.insertion, "gap": gone.gap}
    return out, int(relevance.logits.argmax()) == scenes.label[number], relevance.conserved


def _points(looker: Looker, scenes: LabelledScenes, number: int) -> bool:
    pixels = _prepared(looker, scenes, number)
    links = chain_of(looker.loaded.model)
    relevance = propagate(links, looker.rules, looker.batch(pixels), int(scenes.label[number]))
    return points_at(relevance.pixels.sum(0).cpu().numpy(), scenes.box[number].tolist())


def points_at(values_of: NDArray[np.floating], box: Sequence[int]) -> bool:
    """The pointing game: the largest value lies in a box x0, y0, x1, y1."""
    y, x = np.unravel_index(int(values_of.argmax()), values_of.shape)
    return bool(box[0] <= x < box[2] and box[1] <= y < box[3])


def share_inside(values_of: NDArray[np.floating], box: Sequence[int]) -> float:
    """Share of the absolute values that lies in a box; NaN of a map of zeros."""
    size = np.abs(values_of.astype(np.float64))
    total = float(size.sum())
    return float(size[box[1] : box[3], box[0] : box[2]].sum()) / total if total else float("nan")


def _row(name: str, found: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Means over the pictures, with 95 % intervals."""
    row: dict[str, Any] = {"ranking": name}
    for key in found[0]:
        column = [one[key] for one in found if np.isfinite(one[key])]
        hits = wilson(int(sum(column)), len(column)) if key == "pointing" else mean_interval(column)
        row |= {key: hits.value, f"{key}_low": hits.low, f"{key}_high": hits.high}
    return row


def _arrays(rows: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[np.float64]]:
    """[maps, (value, low, high)] by measure."""
    names = [name for name in rows[0] if name in ("pointing", "inside", "deletion", "insertion")]
    return {name: np.array([[row[name], row[f"{name}_low"], row[f"{name}_high"]] for row in rows]) for name in names}


def draw(data: FigureData, canvas: FigureFile) -> None:
    """A panel for each measure, a bar for each map."""
    from ...report.canvas import literal

    names = [name for name in ("pointing", "inside", "deletion", "insertion") if name in data.arrays]
    titles = {"pointing": "points at the object", "inside": "share inside its box", "deletion": "deletion AUC (low)",
              "insertion": "insertion AUC (high)"}  # fmt: skip
    with canvas((420 * len(names) + 200, 620), layout="constrained") as figure:
        figure.suptitle(literal(f"{data.title}, {data.facts['rules']} rules"))
        for panel, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
            value, low, high = data.arrays[name].T
            places = range(len(value))
            panel.bar(places, value, color=[f"C{place}" for place in places])
            panel.errorbar(places, value, [value - low, high - value], fmt="none", ecolor="black", capsize=4)
            panel.set_xticks(places, data.facts["maps"], rotation=30)
            panel.set(title=titles[name], ylim=(0, max(1.0, float(high.max()))))
