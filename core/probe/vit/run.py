"""`attn probe vit`: which heads of a vision transformer matter, how far they look, what patterns they follow.

Paper: "How Does Attention Work in Vision Transformers? A Visual Analytics Attempt", arXiv 2303.13731. Specification:
methods/vit-analytics.md.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...batch.task import Task
from ...errors import AttnError
from ...io.bands import write_png
from ...models.pictures import read_picture
from ...options import OptionError, values
from ...progress import Bars, Watcher
from ...report.model import Report, command_line_of
from ..frame import drawn_alone, look_at_files, request_of, settings_of
from ..panel import Origin
from .importance import context_means
from .look import loaded_model, look, site_of
from .options import VitOptions
from .together import look_together

WORD = "vit"
TOGETHER = ("atlas", "clusters", "points")
"""Options that only what all pictures come to together hangs on: results of single ones are kept."""
DRAWN = "pictures"
"""Folder of drawn pictures."""


def run(options: VitOptions, *, watcher: Watcher | None = None, arguments: Mapping[str, Any] | None = None) -> Report:
    """Look at every picture, then at all of them together.

    Raises
    ------
    UsageError
        If there is nothing to read, the model cannot be loaded, or has no heads that could be taken out.
    """
    start = time.perf_counter()
    watcher, arguments = watcher or Bars(), arguments or values(options)
    named = (options.model, options.device, options.allow_download)
    loaded, site = loaded_model(*named), site_of(*named)
    settings = {name: value for name, value in settings_of(options).items() if name not in TOGETHER}
    origin = Origin(
        command_line_of(arguments), options.model, loaded.fingerprint, seed=options.seed,
        request=request_of(loaded.fingerprint, settings),
    )  # fmt: skip
    notices = [] if options.inputs.scenes else [*drawn_alone(options.model)]
    if options.inputs.scenes:
        options = replace(options, inputs=replace(options.inputs, inputs=(str(draw_pictures(options)),)))
    together = partial(look_together, options=options, site=site, origin=origin, watcher=watcher, notices=notices)
    return look_at_files(
        WORD, look, options, loaded, model=options.model, since=start, watcher=watcher, arguments=arguments,
        together=together, settings=settings, notices=notices,
        prepare=partial(with_means, options) if options.ablate == "mean" else None,
    )  # fmt: skip


def draw_pictures(options: VitOptions) -> Path:
    """Write drawn pictures into folders named by class. Raises ``UsageError`` where there is no folder for them."""
    from ...prune.data.drawn import drawn_classes

    output = options.inputs.output
    if output is None or Path(output).suffix:
        raise OptionError(f"{{output}}: {options.inputs.scenes} is drawn into a folder. Name one for the results.")
    scenes, folder = drawn_classes(options.inputs.scenes, options.seed), Path(output) / DRAWN
    for number, picture in enumerate(scenes.pictures):
        place = folder / scenes.name(number) / f"{number:04d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        write_png(place, picture.shape[:2], [picture], channels=3)
    return folder


def with_means(options: VitOptions, tasks: Sequence[Task]) -> Sequence[Task]:
    """The tasks with what stands in for a head: the mean of what it gives over all pictures and positions."""
    named = (options.model, options.device, options.allow_download)
    loaded, site = loaded_model(*named), site_of(*named)
    weight, images = next(loaded.model.parameters()), loaded.processor.images
    assert images is not None
    found = []
    for task in tasks:
        if task.error is not None:
            continue
        try:
            pixels = images.prepared(read_picture(task.source).pixels).pixels
        except (AttnError, OSError):
            continue  # its own item says what is wrong with it
        with torch.inference_mode():
            found.append(context_means(site.plain(pixels[None].to(weight.device, weight.dtype))[1]).cpu().numpy())
    mean = np.mean(found, 0) if found else None
    return [replace(task, payload=mean) for task in tasks]
