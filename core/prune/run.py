"""`attn prune`: from the pictures a user names to a report; the same for a library, a shell and a cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from ..batch.run import run_batch
from ..batch.task import Task
from ..bundles import Placement
from ..compare import Compared, Comparison, mean_table, side_by_side
from ..device import pick_device, pick_dtype
from ..errors import InputError, UsageError
from ..io.atomic import remove_stale
from ..io.walk import Passed, expand_inputs, output_paths
from ..models.load import load_model
from ..models.loaded import Loaded
from ..models.pictures import PICTURE_SUFFIXES, ColourPicture, read_picture
from ..options import OptionError
from ..progress import Bars, Watcher
from ..report.model import Item, Report
from .api import keep_of
from .asked import Pruned, Question
from .debias.fitted import shape_of
from .engine.sites import VisionLanguageSite, site_of
from .methods.base import Pruner
from .named import pruner_of
from .options import PruneOptions, check_read
from .outputs import WORD, noted, request_of, write_outputs
from .overlay import overlay
from .saved import SavedPruning, read_saved, write_saved
from .settings import settings_of
from .told import facts_of_model, metrics_of, overview, sections_of
from .vlm.ask import answer, prepare


def run(
    inputs: Sequence[str],
    output: str | Path | None,
    options: PruneOptions,
    placement: Placement = Placement(),  # noqa: B008 - frozen
    *,
    watcher: Watcher | None = None,
    stdin: Any = None,
    arguments: Mapping[str, Any] | None = None,
) -> Report:
    """Ask a model about pictures with all its visual tokens and with fewer.

    Parameters
    ----------
    inputs : sequence of str
        Files, directories, glob patterns, ``-`` (paths on ``stdin``) or ``example:NAME``.
    output : str, Path or None
        A directory; with one input and a suffix of an image, the overlay itself. None: beside the input.
    options : PruneOptions
    placement : Placement
        Where the batch runs, and whether finished outputs are done again.
    watcher : Watcher, optional
        Told about progress.
    stdin : text stream, optional
    arguments : mapping, optional
        What the report records as the call's arguments.

    Returns
    -------
    Report
        One item per picture; ``exit_code`` is what the command returns.

    Raises
    ------
    UsageError
        If the options contradict each other or name something that does not exist, the model cannot be loaded or is of
        a class that cannot be pruned, or there is nothing to read.
    """
    start = time.perf_counter()
    check_read(options)
    options = told_by_folder(options)
    pruners = {name: pruner_for(options, name) for name in (options.method, *options.compare)}
    passed = Passed()
    sources = expand_inputs(inputs, suffixes=PICTURE_SUFFIXES, stdin=stdin, output=output, passed=passed)
    ending = ".png" if output is None else f".{WORD}.png"
    targets = output_paths(sources, output, word=WORD, suffix=ending, written=(".png",))
    tasks = [Task(s.path, target, s.name, error=s.error) for s, target in zip(sources, targets, strict=True)]
    if options.prompt is None or not options.prompt.strip():
        raise OptionError("{prompt}: say what is asked about every picture, as {prompt} 'what is this'.")
    loaded = _loaded(options)  # what is wrong with it is told before the work
    site = site_of(loaded)
    for pruner in pruners.values():
        pruner.stages(site, keep_of(options.keep))
    kept = {} if options.save is None else {"saved": str(write_saved(options.save, _as_saved(options, loaded, site)))}
    for folder in {target.parent for target in targets}:
        remove_stale(folder)
    request = request_of(options, _settings(options, options.method), loaded.fingerprint)
    work = partial(prune_picture, options=options, request=request)
    outcome = run_batch(work, tasks, placement, watcher or Bars())
    items = [noted(item, request) for item in outcome.items]
    sections = [mean_table(items)] if options.compare else []
    return outcome.report(
        "prune", arguments or {"inputs": list(inputs), "method": options.method}, str(pick_device(options.device)),
        start, items=items, passed=passed, sections=sections, overview=overview(items), files=kept,
        remarks=_differences(options, loaded, site),
    )  # fmt: skip


def told_by_folder(options: PruneOptions) -> PruneOptions:
    """The options with method, budget and positions of the kept folder, where one is named."""
    if options.saved is None:
        return options
    try:
        saved = read_saved(options.saved)
    except InputError as error:
        raise OptionError(f"{{saved}}: {error}") from error
    where = {"method": saved.method, "keep": saved.keep, "positions": saved.positions}
    return replace(options, **where)  # type: ignore[arg-type]  # checked as any other


def pruner_for(options: PruneOptions, name: str) -> Pruner:
    """A method with what the options say to it, or the kept folder. Raises ``UsageError``."""
    return pruner_of(name, _settings(options, name))


def _settings(options: PruneOptions, name: str) -> Mapping[str, Any]:
    return read_saved(options.saved).settings if options.saved else settings_of(options, name)


def _as_saved(options: PruneOptions, loaded: Loaded, site: VisionLanguageSite) -> SavedPruning:
    """What is kept of the call."""
    return SavedPruning(
        options.method, options.keep, options.positions, _settings(options, options.method), options.choice.model,
        shape_of(site), loaded.fingerprint,
    )  # fmt: skip


def _differences(options: PruneOptions, loaded: Loaded, site: VisionLanguageSite) -> list[str]:
    """Warnings that the model is not the one that a folder was kept for."""
    if options.saved is None:
        return []
    texts = read_saved(options.saved).differences(shape_of(site), loaded.fingerprint)
    return [f"warning: {options.saved}: {text}" for text in texts]


@lru_cache(maxsize=1)
def _load(model: str, device: str, dtype: str, allow_download: bool) -> Loaded:
    """The model; read once per process."""
    return load_model(model, "vision-language", device=device, dtype=pick_dtype(dtype), allow_download=allow_download)


def _loaded(options: PruneOptions) -> Loaded:
    choice = options.choice
    return _load(choice.model, options.device, options.dtype, choice.allow_download)


def prune_picture(task: Task, step: Callable[[int, int], None], options: PruneOptions, request: str) -> Item:
    """Ask about one picture, write what was asked for (the overlay last), and report it."""
    loaded, picture = _loaded(options), read_picture(task.source)
    steps = 2 + len(options.compare)
    question = _question(loaded, picture, options, task.source)
    step(1, steps)
    keep = keep_of(options.keep)
    done = question.pruned(pruner_for(options, options.method), keep, options.positions)
    step(2, steps)
    drawn = overlay(picture, question.prepared.pictures[0], done.owner)
    compared = _compare(question, picture, done, options, step) if options.compare else None
    files = write_outputs(task, drawn, request, compared)
    return Item(
        input=task.name, output=str(task.output), status="ok", seconds=0.0, files=files,
        metrics=metrics_of(question, done), details=facts_of_model(question, done, options),
        warnings=tuple(dict.fromkeys((*question.prepared.warnings, *done.prefill.notes))),
        sections=(*sections_of(question, done), *([compared.table] if compared else [])),
    )  # fmt: skip


def _question(loaded: Loaded, picture: ColourPicture, options: PruneOptions, source: Path) -> Question:
    """The question about a picture. Raises ``InputError`` for a picture that the model does not take."""
    assert options.prompt is not None
    try:
        prepared = prepare(loaded, [picture], options.prompt)
    except OptionError:
        raise  # the model or the prompt is wrong, not this file
    except UsageError as error:
        raise InputError(source, str(error).rstrip(".")) from error
    if not prepared.tokens:
        raise InputError(source, f"{loaded.family} makes no visual token of it", "Give a larger picture")
    plain = answer(loaded, prepared, max_new_tokens=options.max_new_tokens)
    return Question(loaded, site_of(loaded), prepared, plain, options.max_new_tokens)


def _compare(
    question: Question, picture: ColourPicture, done: Pruned, options: PruneOptions, step: Callable[[int, int], None]
) -> Comparison:
    """The method and those of the comparison at its counted budget, side by side on one picture."""
    geometry = question.prepared.pictures[0]
    names = [options.method, *options.compare]
    share = done.prefill.retention()

    def compared(name: str, one: Pruned) -> Compared:
        return Compared(name, metrics_of(question, one), overlay(picture, geometry, one.owner))

    def ask(name: str) -> Compared:
        pruner = pruner_for(options, name)
        one = question.pruned(pruner, pruner.keep_for(question.site, share), options.positions)
        step(2 + names.index(name), 1 + len(names))
        return compared(name, one)

    return side_by_side(names, ask, {options.method: compared(options.method, done)}, {})
