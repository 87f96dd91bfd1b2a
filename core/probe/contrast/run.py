"""`attn probe contrast` on pictures: both answers, the map, the mask and the crop of CARVE, entropy layer by layer.

Paper: "Focusing by Contrastive Attention: Enhancing VLMs' Visual Reasoning", arXiv 2509.06461. Specification:
methods/carve.md.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from ...batch.run import run_batch
from ...batch.task import Task
from ...errors import AttnError
from ...io.atomic import atomic_path, remove_stale
from ...io.bands import write_png
from ...io.walk import Passed, expand_inputs, output_paths, read_list
from ...models.load import load_model
from ...models.loaded import Loaded
from ...models.pictures import PICTURE_SUFFIXES, eight_bits, read_picture
from ...options import about_file, values
from ...progress import Bars, Watcher
from ...prune.carve.complexity import colour_complexity, texture_complexity
from ...prune.carve.method import Carve, Carved
from ...prune.engine.sites import site_of
from ...prune.told import Answers, model_kind
from ...report.model import Item, Report
from ...report.sections import Table
from .figure import draw
from .options import ContrastOptions
from .scenes import look_at_scenes

WORD = "contrast"


def run(
    options: ContrastOptions, *, watcher: Watcher | None = None, arguments: Mapping[str, Any] | None = None
) -> Report:
    """Look at every picture, or at drawn scenes.

    Raises
    ------
    UsageError
        If there is nothing to read, the model cannot be loaded, or has no such layers.
    """
    start = time.perf_counter()
    loaded = loaded_model(options.choice.model, options.device, options.choice.allow_download)
    carve_of(options).layers_of(site_of(loaded))
    device, given = str(loaded.model.device), options.inputs
    if options.scenes:
        return look_at_scenes(
            options, loaded, carve_of(options), watcher or Bars(), arguments or values(options), start
        )
    listed = read_list(nul=given.nul) if "-" in given.inputs else None
    passed = Passed()
    sources = expand_inputs(given.inputs, suffixes=PICTURE_SUFFIXES, stdin=listed, output=given.output, passed=passed)
    ending = ".png" if given.output is None else f".{WORD}.png"
    targets = output_paths(sources, given.output, word=WORD, suffix=ending, written=(".png",))
    tasks = [Task(s.path, target, s.name, error=s.error) for s, target in zip(sources, targets, strict=True)]
    for folder in {target.parent for target in targets}:
        remove_stale(folder)
    here = replace(options, inputs=replace(given, inputs=("-",)))  # a worker gets one task, not a million names
    outcome = run_batch(partial(look, options=here), tasks, options.placement, watcher or Bars())
    items = [_noted(item, request_of(here, loaded)) for item in outcome.items]
    return outcome.report("probe", arguments or values(options), device, start, items=items, passed=passed)


def look(task: Task, step: Callable[[int, int], None], options: ContrastOptions) -> Item:
    """Ask about one picture, write what was found, and report it."""
    assert task.output is not None
    assert options.prompt is not None
    loaded = loaded_model(options.choice.model, options.device, options.choice.allow_download)
    picture = read_picture(task.source)
    with about_file(task.source):
        done = carve_of(options).run(loaded, picture, options.prompt)
    step(1, 2)
    arrays, crop = beside(task.output, WORD, ".npz"), beside(task.output, "crop", ".png")
    write_arrays(arrays, done, request_of(options, loaded))
    files = {"figure": str(task.output), "arrays": str(arrays)}
    if done.crop is not None:
        pixels = eight_bits(done.crop)
        write_png(crop, pixels.shape[:2], [pixels], channels=3)
        files["crop"] = str(crop)
    draw(task.output, done, picture, title=f"{task.name}: {options.prompt}")
    pixels = eight_bits(picture.pixels)
    metrics: dict[str, float] = {
        "entropy": float(done.entropy.mean()), "entropy_raw": float(done.entropy_raw.mean()),
        "texture": texture_complexity(pixels), "colours": colour_complexity(pixels), "tokens": done.tokens,
        "passes": done.passes,
    }  # fmt: skip
    if done.mask is not None:
        metrics |= {"mask_share": float(done.mask.mean()), "answers_equal": float(done.before == done.after)}
    said = {"answer_before": done.before, "answer_after": done.after, "answer_general": done.general.text}
    layers = [
        {"layer": number, "entropy": float(entropy), "entropy_raw": float(raw), "used": number in done.layers}
        for number, (entropy, raw) in enumerate(zip(done.entropy, done.entropy_raw, strict=True))
    ]
    return Item(
        input=task.name, output=str(task.output), status="ok", seconds=0.0, warnings=done.warnings, metrics=metrics,
        files=files,
        details={
            "model": options.choice.model, "model_kind": model_kind(loaded, options.choice.model),
            "family": loaded.family, "prompt": options.prompt, "box": done.box, "steps_used": done.steps,
        },
        sections=(
            Answers("answers", said),
            Table("layers", layers, title="Entropy of the attention to the picture, in nats", printed=False),
        ),
    )  # fmt: skip


def write_arrays(path: Path, done: Carved, request: str) -> None:
    """An NPZ of what was found, atomically."""
    found: dict[str, Any] = {
        "ratio": done.ratio, "map": done.values.astype(np.float32), "entropy": done.entropy,
        "entropy_raw": done.entropy_raw, "layers": np.array(done.layers), "request": np.array(request),
        "task": done.look.attention.astype(np.float32), "general": done.general.attention.astype(np.float32),
    }  # fmt: skip
    if done.mask is not None:
        found |= {"mask": done.mask, "box": np.array(done.box)}
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **found)


def beside(output: Path, word: str, suffix: str) -> Path:
    """``out/photo.contrast.png`` and word ``crop`` -> ``out/photo.crop.png``; so for ``out/photo.png``."""
    return output.with_name(f"{output.name.removesuffix(output.suffix).removesuffix(f'.{WORD}')}.{word}{suffix}")


def carve_of(options: ContrastOptions) -> Carve:
    return Carve(**values(options.carve))


def request_of(options: ContrastOptions, loaded: Loaded) -> str:
    """What makes two runs the same: weights, question and settings."""
    asked = (loaded.fingerprint, options.prompt, sorted(values(options.carve).items()))
    return hashlib.sha256(repr(asked).encode()).hexdigest()


@lru_cache(maxsize=1)
def loaded_model(model: str, device: str, allow_download: bool) -> Loaded:
    """The model; read once per process."""
    return load_model(model, "vision-language", device=device, allow_download=allow_download)


def _noted(item: Item, request: str) -> Item:
    """A skipped item says where its result is one of another request."""
    if item.status != "skipped":
        return item
    assert item.output is not None
    try:
        with np.load(beside(Path(item.output), WORD, ".npz"), allow_pickle=False) as arrays:
            if str(arrays["request"]) == request:
                return item
        note = "the result that exists was made with another model, question or settings; --overwrite makes it again"
    except (OSError, ValueError, KeyError, AttnError):
        note = "the arrays of the result that exists cannot be read; --overwrite makes it again"
    return replace(item, warnings=(*item.warnings, note))
