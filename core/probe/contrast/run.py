"""`attn probe contrast` on pictures: both answers, the map, the mask and the crop of CARVE, entropy layer by layer.

Paper: "Focusing by Contrastive Attention: Enhancing VLMs' Visual Reasoning", arXiv 2509.06461. Specification:
methods/carve.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...batch.task import Task
from ...models.load import load_model
from ...models.loaded import Loaded
from ...models.pictures import ColourPicture, eight_bits, read_picture
from ...options import about_file, values
from ...progress import Bars, Watcher
from ...prune.carve.complexity import colour_complexity, texture_complexity
from ...prune.carve.method import Carve
from ...prune.engine.sites import site_of
from ...prune.told import Answers, model_kind
from ...report.model import Report
from ...report.sections import Table, Trust
from ..frame import Finding, look_at_files
from ..panel import shown
from ..trust.lines import UNTRAINED, weights_line
from ..trust.randomised import randomised
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
    if options.inputs.scenes:
        return look_at_scenes(
            options, loaded, carve_of(options), watcher or Bars(), arguments or values(options), start
        )
    return look_at_files(
        WORD, look, options, loaded, model=options.choice.model, since=start, watcher=watcher, arguments=arguments
    )


def look(task: Task, step: Callable[[int, int], None], options: ContrastOptions) -> Finding:
    """Ask about one picture."""
    assert options.prompt is not None
    loaded = loaded_model(options.choice.model, options.device, options.choice.allow_download)
    picture = read_picture(task.source)
    with about_file(task.source):
        done = carve_of(options).run(loaded, picture, options.prompt)
    trust = []
    if options.trust:
        step(1, 1 + UNTRAINED)
        trust.append(Trust("trust", [weights_line(done.ratio, untrained_ratios(options, loaded, picture, step))]))
    pixels = eight_bits(picture.pixels)
    metrics: dict[str, float] = {
        "entropy": float(done.entropy.mean()), "entropy_raw": float(done.entropy_raw.mean()),
        "texture": texture_complexity(pixels), "colours": colour_complexity(pixels), "tokens": done.tokens,
        "passes": done.passes,
    }  # fmt: skip
    arrays: dict[str, Any] = {
        "ratio": done.ratio, "map": done.values.astype(np.float32), "entropy": done.entropy,
        "entropy_raw": done.entropy_raw, "layers": np.array(done.layers), "picture": shown(picture.pixels),
        "task": done.look.attention.astype(np.float32), "general": done.general.attention.astype(np.float32),
    }  # fmt: skip
    pictures = {}
    if done.mask is not None and done.crop is not None:
        metrics |= {"mask_share": float(done.mask.mean()), "answers_equal": float(done.before == done.after)}
        arrays |= {"mask": done.mask, "box": np.array(done.box), "crop": shown(done.crop)}
        pictures["crop"] = eight_bits(done.crop)
    said = {"answer_before": done.before, "answer_after": done.after, "answer_general": done.general.text}
    layers = [
        {"layer": number, "entropy": float(entropy), "entropy_raw": float(raw), "used": number in done.layers}
        for number, (entropy, raw) in enumerate(zip(done.entropy, done.entropy_raw, strict=True))
    ]
    return Finding(
        title=f"{task.name}: {options.prompt}", arrays=arrays, metrics=metrics, pictures=pictures,
        facts={
            "model": options.choice.model, "model_kind": model_kind(loaded, options.choice.model),
            "family": loaded.family, "prompt": options.prompt, "box": done.box, "steps_used": done.steps,
            "size": picture.size, **said,
        },
        sections=(
            Answers("answers", said),
            Table("layers", layers, title="Entropy of the attention to the picture, in nats", printed=False), *trust,
        ),
        warnings=done.warnings,
    )  # fmt: skip


def untrained_ratios(
    options: ContrastOptions, loaded: Loaded, picture: ColourPicture, step: Callable[[int, int], None]
) -> list[NDArray[np.float64]]:
    """The ratio of each visual token where the model's weights are drawn at random, one for each of the seeds."""
    assert options.prompt is not None
    ratios = []
    for number in range(UNTRAINED):
        with randomised(loaded.model, number):
            ratios.append(carve_of(options).run(loaded, picture, options.prompt).ratio)
        step(2 + number, 1 + UNTRAINED)
    return ratios


def carve_of(options: ContrastOptions) -> Carve:
    return Carve(**values(options.carve))


@lru_cache(maxsize=1)
def loaded_model(model: str, device: str, allow_download: bool) -> Loaded:
    """The model; read once per process."""
    return load_model(model, "vision-language", device=device, allow_download=allow_download)
