"""A question about a picture, and again about what of it the first answer looked at (carve): pixels, not tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...batch.task import Task
from ...errors import UsageError
from ...io.bands import write_png
from ...models.pictures import eight_bits, read_picture
from ...options import OptionError, about_file
from ...report.model import Item
from ...report.sections import Table
from ..carve.method import Carve, Carved
from ..engine.sites import site_of
from ..named import split
from ..options import PruneOptions
from ..outputs import side_path, write_outputs
from ..overlay import pixel_overlay
from ..told import Answers, about_model
from .ready import Ready, asked, check_asked, loaded_model, ready_with, settings_for


def ready(options: PruneOptions) -> Ready:
    """Check what can be checked before the work. Raises ``UsageError``."""
    carve = carve_of(options)
    for name in ("layer", "compare"):
        if getattr(options, name):
            raise OptionError(f"{{{name}}}: {options.method} keeps pixels, not tokens, so it says nothing here.")
    if options.positions != "keep":
        raise OptionError(f"{{positions}}: {options.method} keeps pixels, not tokens, so it says nothing here.")
    asked(options)
    loaded = loaded_model(options, "vision-language")
    check_asked(options, loaded)
    site = site_of(loaded)
    carve.layers_of(site)
    return ready_with(options, loaded)


def carve_of(options: PruneOptions) -> Carve:
    """The method with what the options say to it. Raises ``UsageError``."""
    if split(options.method)[1]:
        raise UsageError(f"{options.method}: carve ranks no tokens, so there is nothing for + to change.")
    settings: dict[str, Any] = {"max_new_tokens": options.max_new_tokens, **settings_for(options, options.method)}
    if options.keep is not None:
        if isinstance(options.keep, int):
            raise OptionError(f"{{keep}}: {options.method} keeps a share of the pixels, such as 20%.")
        if "share" in settings and options.saved is None:
            raise OptionError("{settings} share: {keep} says that.")
        settings["share"] = float(options.keep)
    return Carve(**settings)


def look(task: Task, step: Callable[[int, int], None], options: PruneOptions, request: str) -> Item:
    """Ask about one picture twice, write the overlay and what was shown the second time, and report it."""
    assert options.prompt is not None
    assert task.output is not None
    loaded, picture = loaded_model(options, "vision-language"), read_picture(task.source)
    with about_file(task.source):
        done = carve_of(options).run(loaded, picture, options.prompt)
    step(1, 1)
    files: dict[str, str] = {}
    if done.crop is not None:
        crop = side_path(task.output, "crop")
        pixels = eight_bits(done.crop)
        write_png(crop, pixels.shape[:2], [pixels], channels=3)
        files["crop"] = str(crop)
    mask = np.ones(picture.pixels.shape[1:], bool) if done.mask is None else done.mask
    files |= write_outputs(task, pixel_overlay(picture, mask, done.box), request, None)
    said = {"answer_before": done.before, "answer_after": done.after}
    return Item(
        input=task.name, output=str(task.output), status="ok", seconds=0.0, files=files, metrics=_metrics(done, mask),
        details={**about_model(loaded, options), "box": done.box, "layers_used": list(done.layers), **said},
        warnings=done.warnings, sections=(Answers("answers", said, printed=False), _layers(done)),
    )  # fmt: skip


def _metrics(done: Carved, mask: Any) -> dict[str, float]:
    metrics: dict[str, float] = {"tokens_before": done.tokens, "pixels_kept": float(mask.mean())}
    if done.after is not None:
        assert done.tokens_after is not None
        metrics |= {"tokens_after": done.tokens_after, "answers_equal": float(done.before == done.after)}
    return metrics | {"passes": done.passes}


def _layers(done: Carved) -> Table:
    rows = [
        {"layer": number, "entropy": float(entropy), "entropy_raw": float(raw)}
        for number, (entropy, raw) in enumerate(zip(done.entropy, done.entropy_raw, strict=True))
    ]
    return Table("layers", rows, title="entropy of the attention to the picture, in nats", printed=False)
