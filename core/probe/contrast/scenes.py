"""`attn probe contrast shapes…`: entropy and accuracy by density of texture in drawn scenes (carve.md, section 6)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

import attn

from ...models.loaded import Loaded
from ...models.pictures import eight_bits
from ...progress import Watcher
from ...prune.carve.complexity import colour_complexity, texture_complexity
from ...prune.carve.method import Carve
from ...prune.carve.target import found, rival_masks
from ...prune.data.drawn import drawn_samples
from ...prune.measure.statistics import mean_interval, wilson
from ...prune.shapes.scenes import DENSITIES
from ...prune.told import model_kind
from ...report.model import Item, Report, command_line_of, summarise
from ...report.sections import Table
from ..frame import scenes_figure
from ..panel import FigureData, Origin, write_figure
from .options import ContrastOptions

MEANS = ("entropy", "accuracy", "accuracy_after")
RIVALS = ("carve", "attention", "centre")


def look_at_scenes(
    options: ContrastOptions, loaded: Loaded, carve: Carve, watcher: Watcher, arguments: Mapping[str, Any], start: float
) -> Report:
    """A row for each density: entropy, answers before and after, and where the masks lie."""
    path = scenes_figure(options.inputs.output, "contrast")
    source, rows, layers = options.inputs.scenes, [], []
    warnings: list[str] = []
    for number, density in enumerate(DENSITIES):
        row, entropy = density_row(loaded, carve, source, density, watcher, warnings, (number, len(DENSITIES)))
        rows.append(row)
        layers += [{"density": density, "layer": layer, "entropy": value} for layer, value in enumerate(entropy)]
    metrics = {name: float(np.mean([row[name] for row in rows])) for name in MEANS}
    facts = {"model": options.choice.model, "model_kind": model_kind(loaded, options.choice.model)}
    told = tuple(dict.fromkeys(warnings))
    sections = (
        Table("densities", rows, title="By density of texture", short=[_brief(row) for row in rows]),
        Table("layers", layers, title="Entropy by layer", detail=True),
    )
    estimates = {
        name: np.array([[row[f"{name}{end}"] for row in rows] for end in ("", "_low", "_high")]) for name in MEANS
    }
    origin = Origin(command_line_of(arguments), options.choice.model, loaded.fingerprint)
    data = FigureData(
        "densities", f"{source}, {options.choice.model}", {"density": np.array(DENSITIES), **estimates}, facts, origin
    )
    files = write_figure(path, data, metrics=metrics, sections=sections, warnings=told)
    seconds = time.perf_counter() - start
    item = Item(
        source, str(path), "ok", seconds, warnings=told, files=files, metrics=metrics, details=facts, sections=sections
    )
    return Report("probe", attn.__version__, arguments, str(loaded.model.device), seconds, (item,), summarise([item]))


def density_row(
    loaded: Loaded, carve: Carve, source: str, density: float, watcher: Watcher, warnings: list[str],
    part: tuple[int, int],
) -> tuple[dict[str, Any], list[float]]:  # fmt: skip
    """What scenes of one density come to, and the mean entropy of each layer.

    Every task of the source has its share of the questions at each density.
    """
    samples = drawn_samples(source, 0, density=density)
    entropy, per_layer, right, after, texture, colours = [], [], [], [], [], []
    masks: dict[str, list[tuple[float, float]]] = {name: [] for name in RIVALS}
    without = 0
    for number, sample in enumerate(samples):
        picture = sample.read()
        done = carve.run(loaded, picture, sample.question)
        warnings += [text for text in done.warnings if not text.startswith("no contrast")]
        without += done.mask is None
        entropy.append(float(done.entropy.mean()))
        per_layer.append(done.entropy)
        right.append(done.before == sample.answer)
        after.append((done.before if done.after is None else done.after) == sample.answer)
        pixels = eight_bits(picture.pixels)
        texture.append(texture_complexity(pixels))
        colours.append(colour_complexity(pixels))
        if sample.boxes is not None:
            for name, mask in rival_masks(carve, done, picture).items():
                place = found(mask, sample.boxes)
                masks[name].append((place.recall, place.precision))
        watcher.step(f"scenes of density {density:g}", part[0] * len(samples) + number + 1, part[1] * len(samples))
    if without:
        warnings.append(
            f"density {density:g}: {without} of {len(samples)} without contrast; they keep their first answer"
        )
    row: dict[str, Any] = {"density": density, "samples": len(samples)}
    for name, estimate in (
        ("entropy", mean_interval(entropy)),
        ("accuracy", wilson(sum(right), len(right))),
        ("accuracy_after", wilson(sum(after), len(after))),
    ):
        row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    row |= {"texture": float(np.mean(texture)), "colours": float(np.mean(colours))}
    for name, places in masks.items():
        for of, column in zip(("recall", "precision"), zip(*places, strict=True), strict=False):
            row[f"{name}_{of}"] = mean_interval(column).value
    return row, np.mean(per_layer, 0).tolist()


def _brief(row: Mapping[str, Any]) -> dict[str, Any]:
    names = ("density", "samples", "entropy", "accuracy", "accuracy_after", "texture", "carve_recall",
             "attention_recall", "centre_recall")  # fmt: skip
    return {name: row[name] for name in names if name in row}
