"""`attn segment`: from the photos a user names to a report; the same for a library, a shell and a cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..batch.run import run_batch
from ..batch.task import Task
from ..bundles import Placement
from ..compare import Compared, Comparison, mean_table, side_by_side
from ..device import pick_device
from ..errors import InputError
from ..io.atomic import remove_stale
from ..io.walk import Input, Passed, expand_inputs
from ..memory import keep_freed_memory
from ..options import OptionError
from ..progress import Bars, Watcher
from ..report.model import Item, Report, plain
from ..report.sections import Facts, Section
from .base import Segmenter
from .case import Case, asked_of, read_case, segment_case, segmenter_of
from .companions import companions
from .naming import SUFFIXES, Target, keep_what_is_there, places
from .options import SegmentOptions, check_options, model_name, other_models
from .outputs import (
    TABLE,
    Segmented,
    check_table,
    measured_rows,
    small,
    write_outputs,
    write_table,
)
from .record import Record, read_record, source_of
from .score.measure import measure
from .scoring import PhotoItem, pooled, scored
from .threshold import Threshold

NOTICE = "Results are for research, not for diagnosis."


def run(
    inputs: Sequence[str],
    output: str | Path | None,
    options: SegmentOptions,
    placement: Placement = Placement(),  # noqa: B008 - frozen
    *,
    watcher: Watcher | None = None,
    stdin: Any = None,
    arguments: Mapping[str, Any] | None = None,
) -> Report:
    """Segment the vessels of fundus photographs.

    Parameters
    ----------
    inputs : sequence of str
        Files, directories, glob patterns, ``-`` (paths on ``stdin``) or ``example:NAME``.
    output : str, Path or None
        A directory; with one input, a name ending in ``.png``: the mask itself. None: beside the input.
    options : SegmentOptions
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
        One item per photo; ``exit_code`` is what the command returns. With truth, a section ``pooled`` holds the
        scores over the pixels of all photos of this run together.

    Raises
    ------
    UsageError
        If the options contradict each other or name something that does not exist, or there is nothing to read.
    """
    start = time.perf_counter()
    check_options(options)
    device = str(pick_device(options.device))
    options = replace(options, model=model_name(options.model), compare=other_models(options))
    passed = Passed()
    sources = expand_inputs(inputs, suffixes=SUFFIXES, stdin=stdin, output=output, passed=passed)
    if len(sources) > 1 and options.truth is not None and not options.truth.is_dir():
        raise OptionError(
            f"{{truth}}: {options.truth} is one file, but there are {len(sources)} photos. Name a directory."
        )
    folder, targets = places(sources, output, overwrite=placement.overwrite)
    tasks = [_task(source, target, options) for source, target in zip(sources, targets, strict=True)]
    keep_what_is_there(tasks)
    table = check_table(folder / TABLE) if options.measure else []
    for name in (options.model, *options.compare):
        segmenter_of(name, options.device, options.dtype)  # a file that cannot be used is refused before the work
    for place in {target.path.parent for target in targets}:
        remove_stale(place)  # what a killed run left half-written
    outcome = run_batch(partial(segment_file, options=options), tasks, placement, watcher or Bars())
    noted = {task.name: target.notes for task, target in zip(tasks, targets, strict=True)}
    items = tuple(
        _told(item, options) if item.status == "skipped" else item
        for item in (replace(item, warnings=(*noted[item.input], *item.warnings)) for item in outcome.items)
    )
    summary: dict[str, Any] = {}
    sections: list[Section] = []
    files: dict[str, str] = {}
    notices = [NOTICE]
    if options.truth is not None:
        by_name = {task.name: task.payload for task in tasks}
        together = pooled([(i, by_name[i.input]) for i in items if i.status == "ok"], options, notices)
        if together is None:
            summary["pooled"] = None
        else:
            sections.append(Facts("pooled", together, title="pooled over the pixels of all photos"))
    if options.compare:
        sections.append(mean_table(items))
    if options.measure and (rows := measured_rows(items, folder)):
        write_table(folder / TABLE, table, rows)
        files["measures"] = str(folder / TABLE)
    named = arguments or {"inputs": list(inputs), "output": output and str(output), "model": options.model}
    return outcome.report(
        "segment", named, device, start, items=items, summary=summary, notices=notices, sections=sections,
        passed=passed, files=files, overview=[_overview(item) for item in items],
    )  # fmt: skip


COLUMNS = {
    "vessel_density": "density",
    "threshold": "threshold",
    "f1": "f1",
    "miou": "miou",
    "sensitivity": "sens.",
    "specificity": "spec.",
    "accuracy": "acc.",
    "auc": "auc",
    "mcc": "mcc",
    "cldice": "cldice",
    "skeleton_length_px": "length px",
    "branch_points": "branches",
    "mean_calibre_px": "calibre px",
    "tortuosity": "tortuosity",
    "fractal_dimension": "fractal dim.",
}
"""What of the metrics a terminal shows, and its heading there; reports have all of them."""


def _overview(item: Item) -> dict[str, Any]:
    shown = {heading: item.metrics.get(name) for name, heading in COLUMNS.items()}
    return {"input": item.input, "status": item.status, **shown, "seconds": item.seconds}


def _task(source: Input, target: Target, options: SegmentOptions) -> Task:
    error, companion_files = source.error or target.error, None
    if error is None:
        try:
            companion_files = companions(source, options)
        except InputError as missing:
            error = missing
    path = None if target.error is not None else target.path  # what is there is not this photo's: not "skipped"
    return Task(source.path, path, source.name, payload=companion_files, error=error)


def segment_file(task: Task, step: Callable[[int, int], None], options: SegmentOptions) -> Item:
    """Read one photo, segment it, write what was asked for (the mask last), and report it."""
    keep_freed_memory()  # in the process that does the work, which may be a worker
    stages = 3 + len(options.compare)
    case, warnings = read_case(task, options)
    step(1, stages)
    done, prediction = segment_case(case, options.model, options)
    segmenter = segmenter_of(options.model, options.device, options.dtype)
    warnings += [*prediction.warnings, *done.threshold.warnings]
    if options.save_attention and not prediction.attention:
        warnings.append("the model has no attention maps")
    measures = _measures(case, done) if options.measure else {}
    scores = scored(case, done, options)
    metrics = _density(case, done) | measures | scores
    if scores.get("auc", 1.0) < 0.5:
        words = "are black and white of the truth exchanged, or is it of another photo?"
        warnings.append(f"the AUC of {scores['auc']:.3f} is below 0.5: {words}")
    if not done.mask.any():
        warnings.append(f"{done.model} finds no vessel in it: the result is empty")
    metrics |= {
        "threshold": done.threshold.value,
        "fov_diameter_px": case.fov.diameter * case.factor,
        "parameters": segmenter.parameters,
    }
    if prediction.diameter is not None:
        metrics["scaled_diameter_px"] = prediction.diameter
    step(2, stages)
    details: dict[str, Any] = {"model": done.model, "size": list(case.photo.size), "fov": options.fov}
    details["threshold_from"] = done.threshold.origin
    details |= {name: str(path) for name in ("truth", "fov") if (path := getattr(task.payload, name)) is not None}
    if case.truth is not None and case.truth.orientation != 1:
        details["truth_orientation"] = case.truth.orientation
    compared = _compare(case, done, options, lambda k: step(k, stages)) if options.compare else None
    kept = {key: plain(value) for key, value in measures.items()}
    record = Record(
        done.model, done.threshold.value, kept, source_of(task.source), case.photo.orientation, done.threshold.origin
    )  # fmt: skip
    files = write_outputs(task.output, done, record, compared)
    return PhotoItem(
        input=task.name,
        output=str(task.output) if task.output else None,
        status="ok",
        seconds=0.0,
        metrics=metrics,
        files=files,
        warnings=tuple(dict.fromkeys(warnings)),
        details=details,
        sections=(compared.table,) if compared else (),
        truth_orientation=case.truth.orientation if case.truth is not None else 1,
    )


def _density(case: Case, done: Segmented) -> dict[str, float]:
    inside = np.count_nonzero(case.fov.mask)
    return {"vessel_density": np.count_nonzero(done.mask) / inside if inside else 0.0}


def _measures(case: Case, done: Segmented) -> dict[str, float]:
    """The vessel measures, lengths in pixels of the file."""
    values = measure(done.mask, case.fov.mask)
    return {key: value * (case.factor if key.endswith("_px") else 1) for key, value in values.items()}


def _compare(case: Case, done: Segmented, options: SegmentOptions, step: Callable[[int], None]) -> Comparison:
    """The other models on the same photo, the main model first, and the truth."""
    others_done = 0

    def compared(segmented: Segmented) -> Compared:
        return Compared(segmented.model, _row(case, segmented, options), small(segmented.prob))

    def run(name: str) -> Compared:
        nonlocal others_done
        other = compared(segment_case(case, name, options)[0])
        step(3 + others_done)
        others_done += 1
        return other

    names, first = (options.model, *options.compare), {"green channel": small(case.photo.pixels[1])}
    made = side_by_side(names, run, {options.model: compared(done)}, first)
    key = "f1" if case.truth is not None else "vessel_density"
    captions = {row["method"]: f"{key.replace('_', ' ')} {row[key]:.3f}" for row in made.rows if key in row}
    truth = {} if case.truth is None else {"truth": small(case.truth.pixels)}
    return replace(made, captions=captions, pictures={**made.pictures, **truth})


def _row(case: Case, done: Segmented, options: SegmentOptions) -> dict[str, float]:
    return _density(case, done) | scored(case, done, options) | {"threshold": done.threshold.value}


def _told(item: Item, options: SegmentOptions) -> Item:
    """A skipped item with what its result differs in from what is asked for now."""
    record = read_record(Path(item.output)) if item.output else None
    notes = []
    wanted = segmenter_of(options.model, options.device, options.dtype)
    if record is None:
        notes.append("what is there in the place of its result is none of attn segment; --overwrite replaces it")
    elif record.model != wanted.name or not _same_threshold(record, wanted, options):
        made = f"{record.model}, threshold {record.threshold}" + f" ({record.threshold_from})" * bool(
            record.threshold_from
        )
        notes.append(f"the result that exists was made with {made}; --overwrite makes it again")
    if options.measure and (record is None or not record.measures):
        notes.append(f"the result that exists was not measured; --overwrite adds it to {TABLE}")
    if options.truth is not None:
        notes.append("skipped: not among the pooled scores; --overwrite scores it again")
    return replace(item, warnings=(*item.warnings, *notes))


def _same_threshold(record: Record, wanted: Segmenter, options: SegmentOptions) -> bool:
    """Whether a result was made with the threshold that is asked for now, or chosen by its photo as is asked for."""
    asked = asked_of(options, own=True)
    if isinstance(asked, Threshold):
        return record.threshold == asked.value
    if asked == "auto" and wanted.calibration is not None:
        return record.threshold_from == "auto"
    return record.threshold == (wanted.threshold if isinstance(asked, str) else asked)
