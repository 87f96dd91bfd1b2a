"""`attn probe scanpath`: the order in which objects are looked at, and two sets of paths against each other.

Paper: "OAT: Object-Level Attention Transformer for Gaze Scanpath Prediction", arXiv 2407.13335. Specification:
methods/oat.md.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import attn

from ...batch.task import Task
from ...device import pick_device
from ...fit.frame import MODEL
from ...models.files import sha256
from ...models.loaded import Loaded, Processor
from ...models.pictures import eight_bits, read_picture
from ...options import values
from ...progress import Bars, Watcher
from ...report.model import Item, Report, summarise
from ...report.sections import Section, Table, Trust
from ...scanpaths import found_within
from ...text import csv_text
from ..frame import Finding, look_at_files, look_at_one, scenes_figure, settings_of
from ..panel import shown
from ..trust.lines import UNTRAINED, line, weights_line
from ..trust.randomised import randomised
from .boxes import boxes_beside, objects_of, read_boxes
from .drawing import overlay
from .model import SHIPPED, WEIGHTS, SearchModel, drawn_paths, read_model, step_probabilities
from .objects import Objects, SceneTensors, scene_tensors
from .options import ScanpathOptions
from .paths import compare_files, path_line
from .shelves import draw_shelf

WORD = "scanpath"
FRAME_SIDE = 480
"""Pixels of the longer side of the GIF."""
SHELF = (3, 6)
"""Rows and columns of a drawn shelf."""
ENLARGED = 4
"""Side of a pixel of a drawn shelf in its picture."""


def run(
    options: ScanpathOptions, *, watcher: Watcher | None = None, arguments: Mapping[str, Any] | None = None
) -> Report:
    """Look at every picture, at a drawn shelf, or at two files of paths.

    Raises
    ------
    UsageError
        If there is nothing to read, the model is none, or files of paths cannot be compared.
    InputError
        If the file of boxes, or one of paths, cannot be read.
    """
    start = time.perf_counter()
    arguments = arguments or values(options)
    if options.metrics:
        return compared(options, arguments, start)
    if options.boxes is not None:
        read_boxes(options.boxes)  # what is wrong with it is told once, not for each picture
    model = model_of(options.model, options.device)
    loaded = Loaded(model.net, Processor(), "attn", sha256(file_of(options.model)))
    settings = settings_of(options) | {"boxes": "" if options.boxes is None else sha256(options.boxes)}
    if options.inputs.shelf is not None:
        name = f"shelf-{options.inputs.shelf}"
        path = scenes_figure(options.inputs.output, WORD, name)
        found = shelf_finding(options, options.inputs.shelf, (watcher or Bars()).step)
        return look_at_one(
            WORD, name, path, found, options, loaded, since=start, arguments=arguments, settings=settings
        )  # fmt: skip
    notices: tuple[str, ...] = ()
    if options.model == SHIPPED:
        notices = (f"{SHIPPED} knows drawn shelves and a simulated searcher alone: of photographs it says what it does "
                   "with them, not where people look. Train a model of your own for those",)  # fmt: skip
    return look_at_files(
        WORD, look, options, loaded, model=options.model, since=start, watcher=watcher, arguments=arguments,
        settings=settings, notices=notices,
    )  # fmt: skip


def file_of(name: str) -> Path:
    """The model's file: that which ships, or of a folder the one that the recipe writes."""
    if name == SHIPPED:
        return WEIGHTS
    path = Path(name)
    return path / MODEL if path.is_dir() else path


@lru_cache(maxsize=1)
def model_of(name: str, device: str) -> SearchModel:
    """The model; read once per process. Raises ``UsageError`` where it is none."""
    model = read_model(file_of(name))
    model.net.to(pick_device(device))
    return model


def look(task: Task, step: Callable[[int, int], None], options: ScanpathOptions) -> Finding:
    """One picture with its boxes."""
    path = options.boxes or boxes_beside(task.source)
    picture = read_picture(task.source)
    objects = objects_of(path, read_boxes(path), task.source.name, picture.size, options.target)
    return finding(options, task.source.stem, eight_bits(picture.pixels), objects, step, picture.warnings)


def shelf_finding(options: ScanpathOptions, seed: int, tell: Callable[[str, int, int], None]) -> Finding:
    """A drawn shelf."""
    shelf = draw_shelf(np.random.default_rng(seed), *SHELF)
    picture = shelf.picture.repeat(ENLARGED, 0).repeat(ENLARGED, 1)
    objects = Objects(ENLARGED * shelf.boxes, shelf.target, (picture.shape[0], picture.shape[1]))
    name = f"shelf-{seed}"
    return finding(options, name, picture, objects, lambda done, total: tell(name, done, total))


def finding(
    options: ScanpathOptions, name: str, picture: NDArray[np.uint8], objects: Objects,
    step: Callable[[int, int], None], warnings: tuple[str, ...] = (),
) -> Finding:  # fmt: skip
    """The likeliest path over a picture's objects, drawn ones, and whether they can be believed."""
    model = model_of(options.model, options.device)
    scene = scene_tensors(picture, objects.at((picture.shape[0], picture.shape[1])), model.shape.crop)
    told = list(warnings)
    if (shrunk := objects.cells()[1]) > 1:
        told.append(f"objects lie further apart than the model has places for: their distances are taken {shrunk:.2g} "
                    "times smaller")  # fmt: skip
    (path,) = drawn_paths(model, scene, None)
    drawn = drawn_of(model, scene, options)
    if path[-1] != objects.target:
        cut = ", the most a path may have" if len(path) == model.shape.longest else ""
        told.append(f"the likeliest path does not end at the target: it has {len(path)} fixations{cut}")
    chances = step_probabilities(model.net, scene, path).cpu().numpy().astype(np.float64)
    found = found_within(drawn, objects.target, model.shape.longest)
    count = len(objects.boxes)
    fixated = np.array([np.mean([item in one for one in drawn]) for item in range(count)])
    labels = objects.labels or tuple(str(1 + item) for item in range(count))
    metrics = {
        "objects": float(count), "steps": float(len(path)), "found": float(found[-1]),
        "mean_length": float(np.mean([len(one) for one in drawn])), "tfp_auc": float(found.mean()),
    }  # fmt: skip
    steps = [
        {"step": 1 + number, "object": 1 + item, "label": labels[item], "probability": float(chances[number, item]),
         "x": float(objects.centres[item, 0]), "y": float(objects.centres[item, 1])}
        for number, item in enumerate(path)
    ]  # fmt: skip
    listed = [
        {"object": 1 + item, "label": labels[item], "met_by": float(share), "target": item == objects.target}
        for item, share in enumerate(fixated)
    ]
    sections: tuple[Section, ...] = (
        Table("fixations", steps, title="The likeliest path", printed=False),
        Table("objects", listed, title="Share of drawn paths that meet an object", printed=False),
        Trust("trust", believed(model, scene, path, chances, float(found.mean()), options, step)),
    )
    small = shown(picture.transpose(2, 0, 1).astype(np.float32) / np.float32(255))
    frame = frame_of(small)
    table = csv_text([steps[0], *(row.values() for row in steps)], line_end="\n")
    lines = [path_line(name, one, objects.target, objects.centres[one], objects.screen) for one in (path, *drawn)]
    return Finding(
        f"{name}: {count} objects, {labels[objects.target]} is searched, by {options.model}"[:160],
        {"probabilities": chances, "path": np.array(path), "fixated": fixated, "boxes": objects.boxes,
         "overlay": overlay(small, objects, path)},
        metrics, facts={"labels": list(labels), "target": objects.target, "samples": options.samples},
        sections=sections, warnings=tuple(told), pictures={"path": overlay(picture, objects, path)},
        films={"path": [overlay(frame, objects, path, number) for number in range(len(path) + 1)]}
        if options.animation else {},
        texts={"paths.jsonl": "".join(lines), "fixations.csv": table},
    )  # fmt: skip


def frame_of(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture reduced to ``FRAME_SIDE``."""
    from PIL import Image

    image = Image.fromarray(picture)
    image.thumbnail((FRAME_SIDE, FRAME_SIDE), Image.Resampling.LANCZOS)
    return np.asarray(image)


def drawn_of(model: SearchModel, scene: SceneTensors, options: ScanpathOptions) -> list[list[int]]:
    generator = torch.Generator(model.net.readout.weight.device).manual_seed(options.seed)
    return drawn_paths(model, scene, options.samples, generator)


def believed(
    model: SearchModel, scene: SceneTensors, path: list[int], chances: NDArray[np.float64], early: float,
    options: ScanpathOptions, step: Callable[[int, int], None],
) -> list[Any]:  # fmt: skip
    """The strip and the search, against networks with randomised weights."""
    strips, searches = [], []
    for number in range(UNTRAINED):
        with randomised(model.net, number):
            strips.append(step_probabilities(model.net, scene, path).cpu().numpy().astype(np.float64))
            drawn = drawn_of(model, scene, options)
        searches.append(float(found_within(drawn, scene.target, model.shape.longest).mean()))
        step(1 + number, UNTRAINED)
    meaning = (
        f"how early drawn paths meet the target (tfp_auc); {len(searches)} networks with randomised weights give "
        f"{min(searches):.3f} to {max(searches):.3f}"
    )
    return [weights_line(chances, strips), line("finds the target", early, searches, meaning)]


def compared(options: ScanpathOptions, arguments: Mapping[str, Any], start: float) -> Report:
    """Two files of paths."""
    one, other = (Path(name) for name in options.inputs.inputs)
    found = compare_files(one, other, compat=options.compat)
    seconds = time.perf_counter() - start
    known = {name: value for name, value in found.metrics.items() if math.isfinite(value)}
    item = Item(
        f"{one} against {other}", None, "ok", seconds, metrics=known, warnings=found.warnings,
        sections=(Table("scenes", found.rows, title="Scene by scene", detail=True),),
    )  # fmt: skip
    return Report("probe", attn.__version__, arguments, "cpu", seconds, (item,), summarise([item]))
