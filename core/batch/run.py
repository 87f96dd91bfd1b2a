"""Run one function over many files: in this process, in several here, or on a cluster, always with the same outcome.

One failing file never stops the others, a finished output is never done twice, and whatever happens every task ends as
an ``Item``. Several processes and machines go through dask.distributed (PACKAGING.md, section 5): a worker that dies is
replaced and its file is tried again elsewhere.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import attn

from ..bundles import Placement
from ..io.walk import Passed
from ..progress import Bars, Watcher
from ..report.model import Item, Report, summarise
from ..report.sections import Row, Section, Table
from .task import Task, Work, do_task


@dataclass(frozen=True, slots=True)
class BatchOutcome:
    """What a batch came to: an item for every task that was reached, and the names of those that were not."""

    items: tuple[Item, ...]
    left: tuple[str, ...] = ()
    interrupted: bool = False

    def report(
        self, command: str, arguments: Mapping[str, Any], device: str, since: float, *,
        items: Sequence[Item] | None = None, summary: Mapping[str, Any] | None = None, notices: Sequence[str] = (),
        sections: Sequence[Section] = (), overview: Sequence[Row] = (), remarks: Sequence[str] = (),
        urgent: Sequence[str] = (), passed: Passed | None = None, files: Mapping[str, str] | None = None,
    ) -> Report:  # fmt: skip
        """What the command says of this batch.

        Parameters
        ----------
        since : float
            ``time.perf_counter()`` when the command began.
        items : sequence of Item, optional
            The items, where the command has more to say about them than the batch.
        summary : mapping, optional
            Joins what ``summarise`` counts.
        notices, sections, overview, remarks, urgent, files
            See ``Report``.
        passed : Passed, optional
            What the walk over the inputs passed by: a section and remarks of its own.
        """
        reported = self.items if items is None else tuple(items)
        if passed is not None and (rows := passed.rows()):
            sections = (Table("skipped_files", rows, detail=True), *sections)
            remarks = (*(f"passed by, {row['why']}: {row['files']} ({row['names']})" for row in rows), *remarks)
        return Report(
            command, attn.__version__, dict(arguments), device, time.perf_counter() - since, reported,
            dict(summarise(reported)) | dict(summary or {}), tuple(notices), tuple(sections),
            left=self.left if self.interrupted else None, files=dict(files or {}), overview=tuple(overview),
            remarks=tuple(remarks), urgent=tuple(urgent),
        )  # fmt: skip


def run_batch(
    work: Work,
    tasks: Sequence[Task],
    placement: Placement,
    watcher: Watcher | None = None,
    *,
    prepare: Callable[[Sequence[Task]], Sequence[Task]] | None = None,
) -> BatchOutcome:
    """Do ``work`` for every task and return the items in the order of the tasks.

    Parameters
    ----------
    work : callable
        Must be picklable when ``placement`` is distributed: a module-level function or a ``partial`` of one.
    tasks : sequence of Task
    placement : Placement
    watcher : Watcher, optional
    prepare : callable, optional
        What comes before the first task, where any is open; returns the tasks with what it found out. Ctrl-C in it is
        Ctrl-C in the batch.

    Returns
    -------
    BatchOutcome
        After Ctrl-C: the items that were done, and the names of the tasks that were left.

    Raises
    ------
    UsageError
        If the cluster cannot be reached, runs another version, or does not see the input files.
    """
    watcher = watcher or Bars()
    items: dict[int, Item] = {}
    open_tasks: list[int] = []
    for index, task in enumerate(tasks):
        if task.error is None and task.output is not None and _exists(task.output) and not placement.overwrite:
            items[index] = Item(input=task.name, output=str(task.output), status="skipped", seconds=0.0)
            watcher.item(items[index], len(items), len(tasks))
        else:
            open_tasks.append(index)

    def record(index: int, item: Item) -> None:
        items[index] = item
        watcher.item(item, len(items), len(tasks))

    interrupted = False
    try:
        if prepare is not None and open_tasks:
            tasks = prepare(tasks)
            open_tasks.sort(key=lambda index: tasks[index].turn)
        if placement.distributed and open_tasks:
            from .cluster import run_distributed  # dask costs a second to import: only where it is wanted

            run_distributed(work, tasks, open_tasks, placement, record)
        else:
            _run_here(work, tasks, open_tasks, placement, record, watcher)
    except KeyboardInterrupt:
        interrupted = True
    left = tuple(task.name for index, task in enumerate(tasks) if index not in items)
    return BatchOutcome(tuple(items[index] for index in sorted(items)), left, interrupted)


def _exists(path: Path) -> bool:
    """Whether a finished output is there; a name that no file can have is none."""
    return os.path.exists(path) if "\0" not in str(path) else False


def _run_here(
    work: Work,
    tasks: Sequence[Task],
    todo: Sequence[int],
    placement: Placement,
    record: Callable[[int, Item], None],
    watcher: Watcher,
) -> None:
    if not todo:
        return
    from ..device import set_threads

    set_threads(placement.threads)
    for index in todo:
        record(index, do_task(work, tasks[index], partial(watcher.step, tasks[index].name)))
