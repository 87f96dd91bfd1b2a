"""`attn prune --dataset`: a set of questions, asked at every point, to a report with curves."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from ...batch.run import run_batch
from ...batch.task import Task
from ...bundles import Placement
from ...device import pick_device, pick_dtype
from ...models.load import load_model
from ...models.loaded import Loaded
from ...options import OptionError, identity
from ...progress import Bars, Watcher
from ...report.model import Item, Report
from ..data.read import read_samples
from ..data.samples import QuestionSet
from ..engine.sites import site_of
from ..named import pruner_of
from ..options import PruneOptions
from ..settings import settings_of
from ..told import model_kind
from .answers import Rule
from .options import QUESTION, CurveOptions, check_set, names_of
from .points import Point, points_of
from .records import begin, part_path, write_lines
from .score import Asking, score
from .told import Told


@dataclass(frozen=True, slots=True)
class CurveSetup:
    """What a worker needs: small, and with whole paths.

    Parameters
    ----------
    options : PruneOptions
        See ``check_set``.
    curve : CurveOptions
    model, source : str
        Model and set.
    """

    options: PruneOptions
    curve: CurveOptions
    model: str
    source: str


def run_set(
    dataset: str, output: str | Path | None, options: PruneOptions, curve: CurveOptions,
    placement: Placement = Placement(),  # noqa: B008 - frozen
    *, watcher: Watcher | None = None, arguments: Mapping[str, Any] | None = None,
) -> Report:  # fmt: skip
    """Score methods on a set of questions.

    Parameters
    ----------
    dataset : str
        See ``data.read.read_samples``.
    output : str, Path or None
        Folder of the run. None: beside the set, ``NAME.prune``.
    options : PruneOptions
        Of the model and how it is asked; ``prompt`` with ``{question}`` in it, the question alone by default.
    curve : CurveOptions
    placement : Placement
        A part of the set is a task.
    watcher : Watcher, optional
    arguments : mapping, optional

    Returns
    -------
    Report
        Tables of points, of tests between methods, of tasks and of areas; a failed item for each picture that cannot be
        read.

    Raises
    ------
    UsageError
        If an option makes no sense, a method was calibrated on samples of the set, or the folder holds another run.
    InputError
        If the set cannot be read.
    """
    start = time.perf_counter()
    setup = CurveSetup(check_set(options, curve), curve, _whole_path(options.choice.model), _whole_path(dataset))
    samples = _samples(setup)
    loaded = _loaded(setup)
    points, left_out = _points(setup)
    if not points:
        raise OptionError(f"{{methods}}: none can be scored. {left_out[0]}")
    for pruner in {point.method: point.pruner for point in points}.values():
        pruner.check_held_out(samples)
    folder = Path(output) if output is not None else _beside(dataset)
    begin(folder, _identity(dataset, setup, samples, loaded), overwrite=placement.overwrite)
    size = curve.batch_size
    tasks = [
        Task(folder, part_path(folder, number), f"samples {first + 1} to {min(first + size, len(samples))}", first)
        for number, first in enumerate(range(0, len(samples), size))
    ]
    again = replace(placement, overwrite=False)  # ``begin`` has cleared what was to be done again
    outcome = run_batch(partial(score_part, setup=setup), tasks, again, watcher or Bars())
    told = Told(
        dataset, folder, samples, options.choice.model, model_kind(loaded, options.choice.model),
        _asking(setup, samples).rule, tuple(left_out),
    )  # fmt: skip
    return told.report(outcome, arguments or {"dataset": dataset}, str(pick_device(options.device)), start)


def score_part(task: Task, step: Callable[[int, int], None], setup: CurveSetup) -> Item:
    """Score a part of the set and write its records."""
    samples, loaded = _samples(setup), _loaded(setup)
    part = samples[task.payload : task.payload + setup.curve.batch_size]
    points, _ = _points(setup)
    records = score(loaded, site_of(loaded.model), part, points, _asking(setup, samples), step)
    assert task.output is not None
    write_lines(task.output, records)
    return Item(task.name, str(task.output), "ok", 0.0)


# -- what every process makes for itself, once


@lru_cache(maxsize=1)
def _read(source: str, limit: int | None, seed: int) -> QuestionSet:
    return read_samples(source, limit=limit, seed=seed)


def _samples(setup: CurveSetup) -> QuestionSet:
    return _read(setup.source, setup.curve.limit, setup.options.seed)


@lru_cache(maxsize=1)
def _load(model: str, device: str, dtype: str, allow_download: bool) -> Loaded:
    return load_model(model, "vision-language", device=device, dtype=pick_dtype(dtype), allow_download=allow_download)


def _loaded(setup: CurveSetup) -> Loaded:
    return _load(setup.model, setup.options.device, setup.options.dtype, setup.options.choice.allow_download)


def _points(setup: CurveSetup) -> tuple[list[Point], list[str]]:
    names = names_of(setup.curve)
    pruners = [(name, pruner_of(name, settings_of(setup.options, name))) for name in names]
    return points_of(setup.curve, pruners, site_of(_loaded(setup).model))


def _asking(setup: CurveSetup, samples: QuestionSet) -> Asking:
    rule: Rule = "vqa" if samples.by_people else "exact"
    options = setup.options
    return Asking(options.prompt or QUESTION, options.max_new_tokens, options.positions, rule)


def _whole_path(name: str) -> str:
    """A path that means the same to other processes; what is no file or folder stays as it is."""
    return os.path.abspath(os.path.expanduser(name)) if os.path.exists(os.path.expanduser(name)) else name


def _beside(source: str) -> Path:
    """Where a run over a set is kept unless the user says."""
    path = Path(source)
    if path.exists():
        return path.parent / f"{path.name.split('.')[0] or path.absolute().name}.prune"
    return Path(re.sub(r"\W+", "-", source) + ".prune")


def _identity(dataset: str, setup: CurveSetup, samples: QuestionSet, loaded: Loaded) -> dict[str, Any]:
    """What makes a run that run, in the order in which a difference is told."""
    return {
        "dataset": dataset, "samples": len(samples), "questions": samples.fingerprint,
        "model": setup.options.choice.model, "fingerprint": loaded.fingerprint, **identity(setup.curve),
        **identity(setup.options),
    }  # fmt: skip
