"""A picture through an image classifier or backbone, with all of its patches and with fewer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from ...batch.task import Task
from ...compare import Compared, Comparison, side_by_side
from ...errors import UsageError
from ...models.loaded import Loaded
from ...models.pictures import ColourPicture, read_picture
from ...options import OptionError, about_file
from ...report.model import Item
from ...report.sections import Table
from ..api import keep_of
from ..measure.fidelity import divergence
from ..methods.base import Keep
from ..options import PruneOptions
from ..outputs import write_outputs
from ..overlay import overlay
from ..told import Answers, about_model
from ..vit.base import VitPruner, VitResult, VitRun, check_read
from ..vit.named import image_pruner_of
from ..vit.site import image_site
from .ready import Ready, loaded_model, ready_with, settings_for


def ready(options: PruneOptions) -> Ready:
    """Check what can be checked before the work. Raises ``UsageError``."""
    pruners = [pruner_for(options, name) for name in (options.method, *options.compare)]
    if options.prompt is not None:
        raise OptionError("{prompt}: an image classifier or backbone is asked nothing. Leave it out.")
    if options.positions != "keep":
        raise OptionError("{positions}: patches of an image transformer carry their positions with them. Leave it out.")
    loaded = loaded_model(options, "classifier")
    site = image_site(loaded.model)
    check_read(loaded.model)
    for pruner in pruners:
        pruner.check(site, keep_of(options.budget))
    return ready_with(options, loaded)


def pruner_for(options: PruneOptions, name: str) -> VitPruner:
    """A method with what the options say to it. Raises ``UsageError``."""
    return image_pruner_of(name, settings_for(options, name))


def look(task: Task, step: Callable[[int, int], None], options: PruneOptions, request: str) -> Item:
    """One picture through the model twice; write what was asked for (the overlay last), and report it."""
    loaded, picture = loaded_model(options, "classifier"), read_picture(task.source)
    steps = 1 + len(options.compare)
    keep = keep_of(options.budget)
    run = _run(loaded, picture, pruner_for(options, options.method), keep, options, task.source)
    step(1, steps)
    done = run.results[0]
    drawn = overlay(picture, done.geometry, owner_of(done))
    compared = _compare(loaded, picture, run, options, task.source, step) if options.compare else None
    files = write_outputs(task, drawn, request, compared)
    said = answers_of(done, loaded)
    return Item(
        input=task.name, output=str(task.output), status="ok", seconds=0.0, files=files, metrics=metrics_of(done),
        details={**about_model(loaded, options), **said},
        warnings=tuple(dict.fromkeys((*picture.warnings, *keep.remarks(len(done.owner)), *run.warnings))),
        sections=(
            *([Answers("answers", said, printed=False)] if said else []), _layers(done),
            *([compared.table] if compared else []),
        ),
    )  # fmt: skip


def _run(
    loaded: Loaded, picture: ColourPicture, pruner: VitPruner, keep: Keep, options: PruneOptions, source: Path
) -> VitRun:
    """The picture through the model; seconds are the median of ``repeat`` runs behind a first one, NaN of none."""
    with about_file(source):
        first = pruner.run(loaded, [picture], keep)
        runs = [first.method.run(loaded, [picture], keep).results[0] for _ in range(options.repeat)]
    if not runs:
        return replace(first, results=(replace(first.results[0], seconds_before=math.nan, seconds=math.nan),))
    plain, fewer = (median(getattr(run, name) for run in runs) for name in ("seconds_before", "seconds"))
    return replace(first, results=(replace(first.results[0], seconds_before=plain, seconds=fewer),))


def owner_of(done: VitResult) -> NDArray[np.int64]:
    """Of each token of the picture, the one that holds it at the end; -1: dropped; prefix tokens hold themselves."""
    prefix = done.geometry.prefix
    owner = np.arange(done.geometry.count)
    patches = done.owner.numpy()
    owner[prefix:] = np.where(patches < 0, -1, patches + prefix)
    return owner


def metrics_of(done: VitResult) -> dict[str, float]:
    """The plain numbers of one method on one picture."""
    metrics = {
        "tokens_before": len(done.owner), "tokens_after": done.tokens[-1], "mean_retention": done.retention,
        "multiply_adds_before": done.multiply_adds_before, "multiply_adds_after": done.multiply_adds,
        "flops_ratio": done.multiply_adds / done.multiply_adds_before,
    }  # fmt: skip
    if not math.isnan(done.seconds):
        metrics |= {"forward_seconds_before": done.seconds_before, "forward_seconds_after": done.seconds}
    if not done.classes:
        return {**metrics, "class_token_cosine": done.cosine}
    agreement = {"logit_kl": divergence(done.before, done.after), "top1_agreement": float(done.top1_agreement)}
    return {**metrics, **agreement}


def answers_of(done: VitResult, loaded: Loaded) -> dict[str, str]:
    """The best class before and after; nothing of a backbone, which says none."""
    if not done.classes:
        return {}
    before, after = (done.classes_of(1, pruned=pruned)[0] for pruned in (False, True))
    names = loaded.labels or tuple(f"class {number}" for number in range(len(done.before)))
    return {"answer_before": names[before], "answer_after": names[after]}


def _layers(done: VitResult) -> Table:
    rows = [
        {"layer": number, "visual_before": len(done.owner), "visual_after": tokens}
        for number, tokens in enumerate(done.tokens)
    ]
    return Table("layers", rows, title="patches in the attention of each block", printed=False)


def _compare(
    loaded: Loaded, picture: ColourPicture, run: VitRun, options: PruneOptions, source: Path,
    step: Callable[[int, int], None],
) -> Comparison:  # fmt: skip
    """The method and those of the comparison at its counted budget, side by side on one picture."""
    names = [options.method, *options.compare]

    def compared(name: str, done: VitResult) -> Compared:
        values: dict[str, float | str] = {**answers_of(done, loaded), **metrics_of(done)}
        return Compared(name, values, overlay(picture, done.geometry, owner_of(done)))

    def see(name: str) -> Compared:
        pruner = pruner_for(options, name)
        tried = pruner.run(loaded, [picture], keep_of(options.budget))
        keep = keep_for(tried, run.results[0].retention)
        step(1 + names.index(name), len(names))
        return compared(name, _run(loaded, picture, pruner, keep, options, source).results[0])

    return side_by_side(names, see, {options.method: compared(options.method, run.results[0])}, {})


def keep_for(tried: VitRun, retention: float) -> Keep:
    """The budget at which a method leaves a share of the patches, averaged over *all* blocks (see ``Pruner.keep_for``).

    Parameters
    ----------
    tried : VitRun
        Of the method, which says where it begins.
    retention : float

    Raises
    ------
    UsageError
        If the blocks in front of its first choice alone see more.
    """
    depth, first = tried.depth, tried.first
    share = (retention * depth - first) / (depth - first) if first < depth else 0.0
    if share <= 0:
        raise UsageError(f"a mean of {retention:.4g} over all {depth} blocks cannot be reached: it begins at {first}.")
    return Keep(share=min(1.0, share))
