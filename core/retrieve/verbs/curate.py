"""`attn retrieve curate`: person crops out of a user's photos, filtered, described by templates; pairs to train on.

Specification: methods/ga-dms.md, section 6, data pipeline. ``curate.pipeline`` has the steps; here is what comes before
them, and the report.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...batch.task import Task
from ...bundles import Placement
from ...device import pick_device, set_threads
from ...io.atomic import place_fault
from ...io.photo.read import PHOTO_SUFFIXES
from ...io.walk import Passed, expand_inputs
from ...options import OptionError
from ...progress import Bars, Watcher
from ...report.model import Item, Report
from ...report.sections import Row, Section, Table
from ..curate.boxes import PhotoBoxes
from ..curate.captioner import captioner_of
from ..curate.pipeline import CAPTIONS, Pipeline
from ..curate.templates import read_templates
from ..curate.verdicts import REASONS
from ..options.curate import CurateOptions
from ..store.lock import WriterLock

NAMED = 3
"""So many crops of a reason are named on a terminal."""


def curate(
    photos: Sequence[str],
    output: str | Path,
    options: CurateOptions = CurateOptions(),  # noqa: B008 - frozen
    placement: Placement = Placement(),  # noqa: B008 - frozen
    *,
    watcher: Watcher | None = None,
    stdin: Iterable[str] | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Report:
    """Make pairs of person crops and captions.

    Parameters
    ----------
    photos : sequence of str
        Photos, folders, or ``-``.
    output : str or Path
        Folder of the results: ``captions.jsonl``, which `attn train ga-dms --data` reads, ``crops.jsonl`` (every crop
        with what was measured and why it was left out), ``templates.txt``, ``answers.jsonl`` and, with boxes, crops/.
    options : CurateOptions
    placement : Placement
        ``overwrite`` asks the captioner everything again, and makes templates anew.
    watcher : Watcher, optional
    stdin : iterable of str, optional
    arguments : mapping, optional
        What the report records as the call's arguments.

    Returns
    -------
    Report. The first item is OUT with its counts; each photo that could not be read, and each crop that the captioner
    failed on, is a failed item. Sections: ``reasons`` and ``dropped``, every crop that was left out.

    Raises
    ------
    UsageError
        If there is nothing to read, the captioner, boxes, templates or encoder cannot be had, or OUT not be written.
    """
    start = time.perf_counter()
    set_threads(placement.threads)
    folder = Path(output)
    if fault := place_fault(folder / CAPTIONS):
        raise OptionError(f"{{output}} {output}: {fault}.")
    boxes = PhotoBoxes(options.boxes) if options.boxes is not None else None
    given = read_templates(options.templates) if options.templates is not None else []
    passed = Passed()
    listed = expand_inputs(photos, suffixes=PHOTO_SUFFIXES, stdin=stdin, output=output, passed=passed)
    captioner = captioner_of(options) if options.captioner is not None else None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"{{output}} {output}: cannot be made ({error.strerror}).") from None
    lock = WriterLock(folder, 0.0, "curating into this folder", "")
    lock.acquire()
    try:
        pipeline = Pipeline(folder, options, placement, watcher or Bars(), captioner, given)
        tasks = [
            Task(item.path, None, item.name, None if boxes is None else boxes.of(item.path), item.error)
            for item in listed
        ]
        pipeline.run(tasks)
    finally:
        lock.release()
    if boxes is not None and (names := boxes.unused()):
        pipeline.warnings.append(
            f"{len(names)} of the photos that {options.boxes} names were not read (such as {names[0]})"
        )
    item = Item(
        _named(photos), str(output), "ok", time.perf_counter() - start, metrics=pipeline.counts(),
        warnings=tuple(pipeline.warnings), details={"captioner": captioner.name if captioner else None},
    )  # fmt: skip
    items = [item, *pipeline.failed]
    return pipeline.outcome.report(
        "retrieve", arguments or {"verb": "curate", "inputs": list(photos), "output": str(output)},
        str(pick_device(options.encoder.device)) if captioner else "cpu", start, items=items,
        sections=_sections(pipeline), overview=[_overview(item)], passed=passed, remarks=pipeline.remarks,
        files=pipeline.files,
    )  # fmt: skip


def _named(photos: Sequence[str]) -> str:
    """The arguments in a few words: a shell may have expanded thousands."""
    return ", ".join(photos[:NAMED]) + (f" and {len(photos) - NAMED} more" if len(photos) > NAMED else "")


def _overview(item: Item) -> Row:
    """What a terminal shows; failures are told as they happen, other counts only where they are not 0."""
    shown = {name: value for name, value in item.metrics.items() if value or name in ("kept", "dropped", "failed")}
    return {"input": item.input, **shown, "seconds": item.seconds}


def _sections(pipeline: Pipeline) -> list[Section]:
    """Reasons with their counts; every crop that was left out; the templates."""
    dropped = [verdict for verdict in pipeline.verdicts if not verdict.kept]
    reasons: list[Row] = []
    for reason, meaning in REASONS.items():
        names = [verdict.crop.image for verdict in dropped if reason in dict(verdict.reasons)]
        if names:
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            reasons.append(
                {"reason": reason, "crops": len(names), "meaning": meaning, "such as": ", ".join(names[:NAMED]) + more}
            )
    rows = [
        {"image": verdict.crop.image, "photo": verdict.crop.photo, "reason": reason, "measured": measured}
        for verdict in dropped
        for reason, measured in verdict.reasons
    ]
    templates = [
        {"template": one.text, "cluster": one.cluster, "role": one.role, "descriptions": one.descriptions,
         "captions": pipeline.used[one.text]}
        for one in pipeline.templates
    ]  # fmt: skip
    return [
        Table("reasons", reasons, title="crops left out (a crop may have several reasons)"),
        Table("dropped", rows, detail=True, title="every crop that was left out"),
        Table("templates", templates, detail=True),
    ]
