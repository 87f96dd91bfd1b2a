"""Run one function over many files: in this process, in several here, or on a cluster, always with the same outcome.

One failing file never stops the others, a finished output is never done twice, and whatever happens every task ends as
an ``Item``. Several processes and machines go through dask.distributed (PACKAGING.md, section 5): a worker that dies is
replaced and its file is tried again elsewhere.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import attn

from ..errors import AttnError, InputError, UsageError
from ..io.atomic import place_fault
from ..report.model import Item, Report, summarise


@dataclass(frozen=True, slots=True)
class Task:
    """One input, where its main output goes (None: nothing is written), and what belongs to this file alone.

    ``error`` is why it cannot be read at all, where that is known beforehand. ``whole``: another input of the batch has
    its name but for the suffix, so what comes with the output keeps the suffix in its name.
    """

    source: Path
    output: Path | None
    name: str
    payload: Any = None
    error: InputError | None = None
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a batch runs.

    Parameters
    ----------
    workers : int
        Processes on this machine; 1 runs in this process.
    cluster : str or None
        Address of a running dask scheduler, e.g. ``tcp://host:8786``.
    item_timeout : float or None
        Seconds after which a file is given up (its worker is restarted).
    threads : int or None
        CPU threads per process; None shares the cores among the workers.
    overwrite : bool
        Do outputs again that already exist.
    connect_timeout : float
        Seconds within which the scheduler at ``cluster`` must answer.
    """

    workers: int = 1
    cluster: str | None = None
    item_timeout: float | None = None
    threads: int | None = None
    overwrite: bool = False
    connect_timeout: float = 10.0

    @property
    def distributed(self) -> bool:
        return self.workers > 1 or self.cluster is not None or self.item_timeout is not None


class Watcher(Protocol):
    """Who is told how the batch goes on (a progress bar, or nobody)."""

    def item(self, item: Item, done: int, total: int) -> None: ...
    def step(self, name: str, done: int, total: int) -> None: ...


class Silent:
    """A watcher that says nothing."""

    def item(self, item: Item, done: int, total: int) -> None: ...
    def step(self, name: str, done: int, total: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a batch came to: an item for every task that was reached, and the names of those that were not."""

    items: tuple[Item, ...]
    left: tuple[str, ...] = ()
    interrupted: bool = False

    def report(
        self, command: str, arguments: Mapping[str, Any], device: str, since: float, *,
        items: Sequence[Item] | None = None, summary: Mapping[str, Any] | None = None, notices: Sequence[str] = (),
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
        """
        told = self.items if items is None else tuple(items)
        total = dict(summarise(told)) | dict(summary or {})
        if self.interrupted:
            total |= {"interrupted": True, "left": list(self.left)}
        seconds = time.perf_counter() - since
        return Report(command, attn.__version__, dict(arguments), device, seconds, told, total, tuple(notices))


Work = Callable[[Task, Callable[[int, int], None]], Item]
"""``work(task, step)`` does one file and returns its item; ``step(done, total)`` reports progress inside it."""


def run_batch(
    work: Work,
    tasks: Sequence[Task],
    placement: Placement,
    watcher: Watcher | None = None,
    *,
    prepare: Callable[[Sequence[Task]], Sequence[Task]] | None = None,
) -> Outcome:
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
    Outcome
        After Ctrl-C: the items that were done, and the names of the tasks that were left.

    Raises
    ------
    UsageError
        If the cluster cannot be reached, runs another version, or does not see the input files.
    """
    watcher = watcher or Silent()
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
        if placement.distributed and open_tasks:
            from .cluster import run_distributed  # dask costs a second to import: only where it is wanted

            run_distributed(work, tasks, open_tasks, placement, record)
        else:
            _run_here(work, tasks, open_tasks, placement, record, watcher)
    except KeyboardInterrupt:
        interrupted = True
    left = tuple(task.name for index, task in enumerate(tasks) if index not in items)
    return Outcome(tuple(items[index] for index in sorted(items)), left, interrupted)


def _exists(path: Path) -> bool:
    """Whether a finished output is there; a name that no file can have is none."""
    return os.path.exists(path) if "\0" not in str(path) else False


def do_task(work: Work, task: Task, step: Callable[[int, int], None]) -> Item:
    """One task, whose faults become a failed item instead of an exception."""
    start = time.perf_counter()
    trace = None
    try:
        if task.error is not None:
            raise task.error
        if task.output is not None and (fault := place_fault(task.output)):  # before the work, not after it
            raise InputError(task.output, f"cannot be written: {fault}", "Name another place with -o")
        item = work(task, step)
        return replace(item, seconds=time.perf_counter() - start)
    except InputError as error:
        reason = error.reason if error.path in (task.name, str(task.source)) else str(error)
    except UsageError:
        raise  # the command line is wrong, not this file
    except AttnError as error:
        reason = str(error)
    except MemoryError:
        reason = "not enough memory for this image. Try fewer --workers, or a smaller image"
    except OSError as error:
        reason = f"{error.strerror or error}" + (f" ({error.filename})" if error.filename else "")
    except Exception as error:  # a fault of ours: say so, keep the others going, show the traceback with -v
        text = " ".join(str(error).split())[:300]
        reason = f"internal error, {type(error).__name__}: {text}. Please report it (-v shows where)"
        trace = traceback.format_exc()
    details = {"traceback": trace} if trace else {}
    return Item(task.name, None, "failed", time.perf_counter() - start, error=reason, details=details)


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
