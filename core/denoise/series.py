"""Which files belong together when one filter serves a whole series, and that filter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..batch.task import Task
from ..bundles import Placement
from ..errors import InputError
from ..io.dicom.series import sort_series
from ..io.kinds import suffix_of
from ..options import OptionError
from ..progress import Watcher
from .options import DenoiseOptions
from .outputs import save_filter
from .pipeline import fit_filter, released, slice_to_fit
from .shared import Shared
from .simulate import read_noisy
from .window import choose_window, see


@dataclass(frozen=True, slots=True)
class Group:
    """Files that share a filter, in slice order, and what is odd about them as a series."""

    name: str
    paths: tuple[Path, ...]
    warnings: tuple[str, ...] = ()


def group_series(paths: Sequence[Path]) -> list[Group]:
    """Every path in exactly one group.

    DICOM files are grouped by SeriesInstanceUID and sorted by position; localizers and multi-frame files stand alone.
    Files of other kinds are one series per directory and suffix, in the order given.
    """
    groups = [Group(series.key, series.items, series.warnings) for series in sort_series(paths)]
    dicom = {path for group in groups for path in group.paths}
    others: dict[tuple[Path, str], list[Path]] = {}
    for path in paths:
        if path not in dicom:
            others.setdefault((path.parent, suffix_of(path)), []).append(path)
    return groups + [Group(str(folder), tuple(members)) for (folder, _), members in others.items()]


def fit_series(
    tasks: Sequence[Task],
    options: DenoiseOptions,
    placement: Placement,
    watcher: Watcher,
    fits: list[dict[str, Any]],
) -> list[Task]:
    """Fit one filter per series and hand it to the series' tasks; a file that is a series by itself fits its own.

    A chosen slice that cannot be read gives way to its nearest readable neighbour; the file fails in its own turn.
    ``fits`` is told of each series as soon as it is fitted.

    Raises
    ------
    UsageError
        If one filter is to be kept, and there are several.
    """
    by_path = {task.source: task for task in tasks}
    groups = []
    for group in group_series([task.source for task in tasks]):
        members = [by_path[path] for path in group.paths]
        if any(placement.overwrite or t.output is None or not t.output.exists() for t in members):
            groups.append((group, members))
    if options.save_filter is not None and len(groups) > 1:
        raise OptionError(
            f"{{save_filter}} keeps one filter, but the input has {len(groups)} series. Name one of them."
        )
    ready: dict[Path, Task] = {}
    for group, members in groups:
        if len(members) > 1:
            chosen = slice_to_fit(options.fit_on, len(members))
            assert chosen is not None
            shared, name = _fit_nearest(members, chosen, options, watcher)
            ready |= {task.source: _with_filter(task, shared) for task in members}
            warnings = group.warnings
            if name is not None and name != members[chosen].name:
                warnings = (*warnings, f"not on {members[chosen].name}, which cannot be used")
            fits.append({"series": group.name, "files": len(members), "fitted_on": name, "warnings": warnings})
    return [ready.get(task.source, task) for task in tasks]


def _with_filter(task: Task, shared: Shared | None) -> Task:
    """The task with a series' filter and its window; what it knows of its volume stays."""
    if shared is None or task.payload is None:
        return replace(task, payload=shared or task.payload)
    return replace(task, payload=replace(task.payload, fitted=shared.fitted, window=shared.window))


def _fit_nearest(
    members: Sequence[Task], chosen: int, options: DenoiseOptions, watcher: Watcher
) -> tuple[Shared | None, str | None]:
    for index in sorted(range(len(members)), key=lambda i: abs(i - chosen)):
        task = members[index]
        try:
            noisy = read_noisy(task.source, options)[1]
        except InputError:
            continue
        of_volume = task.payload.window if task.payload else None  # of all its slices
        window = of_volume or choose_window(options.window, noisy)
        if window.width <= 0:
            continue
        middle = len(noisy.pixels) // 2
        valid = None if noisy.valid is None else noisy.valid[middle]
        told = partial(watcher.step, f"fit on {task.name}")
        seen = see(noisy.pixels[middle], window, valid)
        fitted = fit_filter(seen, options, told, valid=valid, aspect=noisy.aspect)
        if options.save_filter is not None:
            save_filter(fitted, options.save_filter, window)
        return Shared(released(fitted), window), task.name
    return None, None
