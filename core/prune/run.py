"""`attn prune`: from the pictures a user names to a report; the same for a library, a shell and a cluster."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ..batch.run import run_batch
from ..batch.task import Task
from ..bundles import Placement
from ..errors import InputError
from ..io.atomic import remove_stale
from ..io.walk import Passed, expand_inputs, output_paths
from ..models.pictures import PICTURE_SUFFIXES
from ..options import OptionError
from ..progress import Bars, Watcher
from ..report.model import Report
from .looks.kinds import settled
from .looks.ready import Ready, settings_for
from .options import PruneOptions, check_read
from .outputs import WORD, noted, request_of
from .saved import SavedPruning, read_saved, write_saved
from .told import comparison_of, offered, overview

RANDOM = (
    "The weights of this model are random: tokens, operations, memory and seconds are what they are; answers, their "
    "agreement and divergence are noise."
)
EARLY_EXIT = (
    "Early exit: where answered_by says guide, answer_after is the guide's own. All other numbers are of the large "
    "model with fewer tokens, which was run all the same; large_calls is the share of pictures for which it is needed."
)


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
    options, how = settled(told_by_folder(options))
    passed = Passed()
    sources = expand_inputs(inputs, suffixes=PICTURE_SUFFIXES, stdin=stdin, output=output, passed=passed)
    ending = ".png" if output is None else f".{WORD}.png"
    targets = output_paths(sources, output, word=WORD, suffix=ending, written=(".png",))
    tasks = [Task(s.path, target, s.name, error=s.error) for s, target in zip(sources, targets, strict=True)]
    ready = how.ready(options)  # what is wrong with model or method is told before the work
    settings = settings_for(options, options.method)
    request = request_of(options, settings, ready.fingerprint)
    files = {}
    if options.save is not None:
        saved = SavedPruning(
            options.method, options.keep, options.positions, settings, options.choice.model, ready.shape,
            ready.fingerprint,
        )  # fmt: skip
        files["saved"] = str(write_saved(options.save, saved))
    for folder in {target.parent for target in targets}:
        remove_stale(folder)
    outcome = run_batch(partial(how.look, options=options, request=request), tasks, placement, watcher or Bars())
    items = [noted(item, request) for item in outcome.items]
    table, notes = comparison_of(items)
    remarks = [*_differences(options, ready), *notes]
    return outcome.report(
        "prune", arguments or {"inputs": list(inputs), "method": options.method}, ready.device, start, items=items,
        passed=passed, sections=[table] if options.compare else [], overview=overview(items), files=files,
        remarks=remarks,
        notices=(*([RANDOM] if ready.kind == "random" else []), *([EARLY_EXIT] if offered(items) else [])),
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


def _differences(options: PruneOptions, ready: Ready) -> list[str]:
    """Warnings that the model is not the one that a folder was kept for."""
    if options.saved is None:
        return []
    texts = read_saved(options.saved).differences(ready.shape, ready.fingerprint)
    return [f"warning: {options.saved}: {text}" for text in texts]
