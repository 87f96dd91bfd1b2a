"""`attn probe saliency` on pictures and texts: what each token of the answer stands on.

Paper: "Hallucination Begins Where Saliency Drops", arXiv 2601.20279. Specification: methods/lvlms-saliency.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from ...batch.task import Task
from ...errors import UsageError
from ...models.load import load_model, vision_task
from ...models.loaded import Loaded
from ...models.pictures import PICTURE_SUFFIXES, read_picture
from ...options import OptionError, about_file, values
from ...progress import Bars, Watcher
from ...prune.engine.sites import is_vision_language
from ...report.model import Report
from ..frame import Finding, drawn_alone, look_at_files, look_at_one, scenes_figure
from ..panel import shown
from .decode import longest_of
from .examine import Examined, answer_ids, decoding_of, examine
from .options import SaliencyOptions
from .question import about_picture, about_text, text_of
from .told import arrays_of, facts_of, metrics_of, sections_of

WORD = "saliency"
TEXTS = (".txt", ".md")


def run(
    options: SaliencyOptions, *, watcher: Watcher | None = None, arguments: Mapping[str, Any] | None = None
) -> Report:
    """Look at every picture or text, at drawn scenes, or at the prompt alone.

    Raises
    ------
    UsageError
        If there is nothing to read, the model cannot be loaded, is of an unknown class, or has no such layers.
    """
    start = time.perf_counter()
    loaded = loaded_model(options.model, options.device, options.dtype, options.allow_download)
    decoding_of(loaded, options)
    if options.answer is not None:
        answer_ids(loaded, options.answer)
    pictured = is_vision_language(loaded.model)
    watcher, arguments = watcher or Bars(), arguments or values(options)
    if options.inputs.scenes:
        if not pictured:
            raise OptionError(
                f"{{model}}: {options.model} is a model of text alone; {options.inputs.scenes} are pictures."
            )
        from .scenes import look_at_scenes

        return look_at_scenes(options, loaded, watcher, arguments, start)
    if pictured and not options.inputs.inputs:
        raise UsageError(f"nothing to read: {options.model} answers about pictures. {options.inputs.NOTHING}")
    if pictured and options.prompt is None:
        raise OptionError("{prompt}: what is asked about the pictures must be given.")
    if pictured and not options.template:
        raise OptionError(
            "{template}: a question about a picture is always put into the form of its model. Leave it out."
        )
    if not options.inputs.inputs:
        return look_at_prompt(options, loaded, watcher, arguments, start)
    return look_at_files(
        WORD, look, options, loaded, model=options.model, since=start, watcher=watcher, arguments=arguments,
        notices=drawn_alone(options.model), suffixes=PICTURE_SUFFIXES if pictured else TEXTS,
    )  # fmt: skip


def look(task: Task, step: Callable[[int, int], None], options: SaliencyOptions) -> Finding:
    """Look at one picture or text."""
    loaded = loaded_model(options.model, options.device, options.dtype, options.allow_download)
    if not is_vision_language(loaded.model):
        with about_file(task.source):
            asked = about_text(loaded, text_of(task.source, options.prompt), templated=options.template)
            return finding(options, loaded, examine(loaded, asked, options, step), task.name)
    assert options.prompt is not None
    picture = read_picture(task.source)
    asked = about_picture(loaded, picture, options.prompt, task.source)
    with about_file(task.source):
        found = finding(options, loaded, examine(loaded, asked, options, step), task.name)
    assert asked.geometry is not None
    small = shown(picture.pixels)
    heat = asked.geometry.on_pixels(found.arrays["image"], size=small.shape[:2])
    return Finding(
        found.title, {**found.arrays, "picture": small, "heat": heat}, found.metrics, found.facts, found.sections,
        found.warnings,
    )  # fmt: skip


def finding(options: SaliencyOptions, loaded: Loaded, found: Examined, name: str) -> Finding:
    """All but the picture."""
    warnings = [*found.asked.warnings]
    longest = longest_of(loaded, options.max_new_tokens)
    if options.answer is None and not found.plain.ended and longest == options.max_new_tokens:
        warnings.append(f"the answer was cut after {longest} tokens (max_new_tokens)")
    if found.mitigated is not None and len(found.mitigated.tokens) == 1:
        why = {"sgrs": "sgrs has no threshold for the first", "locore": "locore acts from the second on"}
        idle = [why[name] for name in options.mitigate if name == "sgrs" or not options.locore_first]
        if idle:
            warnings.append(f"the mitigated answer has one token: {', and '.join(idle)}")
    return Finding(
        title=f"{name}: {options.prompt or options.model}"[:120], arrays=arrays_of(found), metrics=metrics_of(found),
        facts={"model": options.model, "family": loaded.family, "prompt": options.prompt, **facts_of(found, loaded)},
        sections=sections_of(found), warnings=tuple(warnings),
    )  # fmt: skip


def look_at_prompt(
    options: SaliencyOptions, loaded: Loaded, watcher: Watcher, arguments: Mapping[str, Any], start: float
) -> Report:
    """A prompt without a file, for a model of text."""
    assert options.prompt is not None
    path = scenes_figure(options.inputs.output, WORD, "prompt")
    asked = about_text(loaded, options.prompt, templated=options.template)
    examined = examine(loaded, asked, options, lambda done, total: watcher.step("prompt", done, total))
    found = finding(options, loaded, examined, "prompt")
    return look_at_one(WORD, "prompt", path, found, options, loaded, since=start, arguments=arguments)


@lru_cache(maxsize=1)
def loaded_model(model: str, device: str, dtype: str, allow_download: bool) -> Loaded:
    """The model, one of pictures where it is, else one of text; read once per process."""
    pictured = vision_task(model, allow_download=allow_download) == "vision-language"
    return load_model(
        model, "vision-language" if pictured else "causal", device=device, dtype=dtype, allow_download=allow_download
    )
