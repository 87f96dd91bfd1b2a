"""`attn probe filters`: models in, what their convolution filters are like out.

Paper: "On filter design in deep convolutional neural network", arXiv 2410.21644. Specification:
methods/filter-design.md, sections 3.5-3.7 and 7-9.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ...batch.run import run_batch
from ...batch.task import Task
from ...errors import InputError
from ...io.atomic import remove_stale
from ...io.walk import Input, Passed, expand_inputs, output_paths, read_list
from ...models.embedded import EMBEDDED
from ...models.files import sha256
from ...models.images import ImagePreparation
from ...models.load import is_hub_id, path_of
from ...models.pictures import PICTURE_SUFFIXES, read_picture
from ...options import OptionError, values
from ...progress import Bars, Watcher
from ...report.model import Item, Report, command_line_of
from ..frame import noted, request_of, settings_of
from ..panel import FigureData, Origin, write_figure
from .change import Change, changes
from .measure import measure
from .options import FiltersOptions
from .read import SUFFIXES, ModelFilters, chosen, read_filters

WORD = "filters"


def run(
    options: FiltersOptions, *, watcher: Watcher | None = None, arguments: Mapping[str, Any] | None = None
) -> Report:
    """Look at every model.

    Raises
    ------
    UsageError
        If there is nothing to read, results cannot go where they should, or the model to compare with or the pictures
        are not there.
    """
    start = time.perf_counter()
    given, arguments = options.inputs, arguments or values(options)
    passed = Passed()
    sources, named = sources_of(given.inputs, read_list(nul=given.nul) if "-" in given.inputs else [], given, passed)
    ending = ".png" if given.output is None else f".{WORD}.png"
    targets = output_paths(sources, given.output, word=WORD, suffix=ending, written=(".png",))
    tasks = [
        Task(source.path, target, source.name, payload=source.name not in named, error=source.error)
        for source, target in zip(sources, targets, strict=True)
    ]
    for folder in {target.parent for target in targets}:
        remove_stale(folder)
    pictures, notices = pictures_of(options)
    settings = settings_of(options)
    settings["data"] = tuple(sha256(path) for path in pictures)
    if options.compare is not None:
        settings["compare"] = other_model(options).fingerprint
    here = replace(options, inputs=replace(given, inputs=("-",)))
    work = partial(
        look, options=here, pictures=tuple(pictures), command=command_line_of(arguments),
        settings=tuple(sorted((name, repr(value)) for name, value in settings.items())),
    )  # fmt: skip
    outcome = run_batch(work, tasks, options.placement, watcher or Bars())
    items = [
        noted(item, request_of(_fingerprint(task, options), dict(work.keywords["settings"])))
        if item.status == "skipped"
        else item
        for item, task in zip(outcome.items, tasks, strict=False)
    ]
    return outcome.report("probe", arguments, "cpu", start, items=items, passed=passed, notices=notices)


def sources_of(
    words: Sequence[str], listed: Sequence[str], given: Any, passed: Passed
) -> tuple[list[Input], frozenset[str]]:
    """What the words stand for, in their order, and the names of those that are no files of weights.

    A folder with a config.json is one model; any other is searched for files of weights.
    """
    every = [name for word in words for name in (listed if word == "-" else (word,))]
    named = frozenset(name for name in every if is_model(name))
    files = [name for name in every if name not in named]
    found = expand_inputs(files, suffixes=SUFFIXES, output=given.output, passed=passed) if files or not named else []
    models = [
        Input(Path(name), name, example=not path_of(name).is_dir()) for name in dict.fromkeys(every) if name in named
    ]
    return [*models, *found], named


def is_model(name: str) -> bool:
    """A name is that of a model: one that ships, a folder of transformers, timm or open_clip, or an id of the hub."""
    if name in EMBEDDED:
        return True
    path = path_of(name)
    if path.is_dir():
        return any((path / config).is_file() for config in ("config.json", "open_clip_config.json"))
    return not path.exists() and path.suffix not in SUFFIXES and is_hub_id(name)


def look(
    task: Task, step: Callable[[int, int], None], options: FiltersOptions, pictures: tuple[Path, ...], command: str,
    settings: tuple[tuple[str, str], ...],
) -> Item:  # fmt: skip
    """Look at one model, and write what was found."""
    assert task.output is not None
    model = read_filters(_name(task), file=task.payload, allow_download=options.allow_download)
    model = chosen(model, options.layers, task.name)
    changed: list[Change] = []
    told: tuple[str, ...] = ()
    if options.compare is not None:
        changed, told = changes(other_model(options), model, task.name, options.compare, options.layers)
    pixels, warnings = prepared(model, pictures)
    found = measure(
        model, pixels, seed=options.seed, object_size=options.object_size, changed=changed, title=task.name, step=step
    )
    warnings = (*found.warnings, *told, *warnings, *unknown(model, options))
    origin = Origin(
        command, task.name, model.fingerprint, seed=options.seed, request=request_of(model.fingerprint, dict(settings))
    )
    facts = {**found.facts, "model": task.name, "family": model.loaded.family if model.loaded else "weights"}
    files = write_figure(
        task.output, FigureData(WORD, found.title, found.arrays, facts, origin),
        metrics=found.metrics, sections=found.sections, warnings=warnings,
    )  # fmt: skip
    return Item(
        input=task.name, output=str(task.output), status="ok", seconds=0.0, metrics=found.metrics, files=files,
        warnings=warnings, details=facts, sections=found.sections,
    )  # fmt: skip


def _name(task: Task) -> str:
    return str(task.source) if task.payload else task.name


def _fingerprint(task: Task, options: FiltersOptions) -> str:
    """Of a model whose result exists."""
    if task.payload:
        return sha256(task.source)
    return read_filters(task.name, file=False, allow_download=options.allow_download).fingerprint


@lru_cache(maxsize=1)
def _other(name: str, allow_download: bool) -> ModelFilters:
    return read_filters(name, file=not is_model(name), allow_download=allow_download)


def other_model(options: FiltersOptions) -> ModelFilters:
    """The model to compare with; read once per process. Raises ``UsageError`` where it cannot be read."""
    assert options.compare is not None
    try:
        return _other(options.compare, options.allow_download)
    except InputError as error:
        raise OptionError(f"{{compare}} {error}.") from None


def pictures_of(options: FiltersOptions) -> tuple[list[Path], tuple[str, ...]]:
    """The pictures to run models on, and what of them is left out. Raises ``UsageError`` where there is none."""
    if options.data is None:
        return [], ()
    sources = expand_inputs((options.data,), suffixes=PICTURE_SUFFIXES, output=options.inputs.output)
    if missing := [source for source in sources if source.error is not None]:
        raise OptionError(f"{{data}} {missing[0].error}.")
    paths = [source.path for source in sources]
    if len(paths) <= options.pictures:
        return paths, ()
    drawn = np.sort(np.random.default_rng(options.seed).permutation(len(paths))[: options.pictures])
    note = f"{options.pictures} of {len(paths)} pictures were drawn (seed {options.seed})"
    return [paths[number] for number in drawn.tolist()], (note,)


def prepared(model: ModelFilters, pictures: Sequence[Path]) -> tuple[list[Tensor], tuple[str, ...]]:
    """The pictures as a model takes them, and those that cannot be read."""
    if not pictures:
        return [], ()
    images: ImagePreparation | None = model.loaded.processor.images if model.loaded is not None else None
    if model.loaded is None:
        return [], ("a file of weights cannot be run on pictures: name the model's folder instead",)
    if model.sick:
        return [], ("with NaN or infinite weights it is not run on pictures",)
    if images is None:
        return [], ("this model takes more than pictures: what its filters do on them is not measured",)
    pixels, unread = [], []
    for path in pictures:
        try:
            pixels.append(images(read_picture(path).pixels))
        except InputError as error:
            unread.append(str(error))
    if not pixels:
        raise InputError(pictures[0], f"and the other pictures cannot be read ({unread[0]})", "Name other pictures")
    return pixels, tuple(f"a picture is left out, {reason}" for reason in unread)


def unknown(model: ModelFilters, options: FiltersOptions) -> tuple[str, ...]:
    """What was asked for and is not known of this model."""
    if options.object_size is not None and (model.loaded is None or model.loaded.processor.images is None):
        return ("the receptive field is not known of it: whether it is smaller than the objects cannot be told",)
    return ()
