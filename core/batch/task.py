"""What a batch is made of: tasks, where they run, and one task done."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import AttnError, InputError, UsageError
from ..io.atomic import place_fault
from ..report.model import Item


@dataclass(frozen=True, slots=True)
class Task:
    """One input, where its main output goes (None: nothing is written), and what belongs to this file alone.

    ``error`` is why it cannot be read at all, where that is known beforehand. ``whole``: another input of the batch has
    its name but for the suffix, so what comes with the output keeps the suffix in its name. ``turn``: tasks are done in
    this order, equal ones as they come; tasks with turns near each other are done by one process where there are
    several, for they may use what it made for the one before.
    """

    source: Path
    output: Path | None
    name: str
    payload: Any = None
    error: InputError | None = None
    whole: bool = False
    turn: int = 0


Work = Callable[[Task, Callable[[int, int], None]], Item]
"""``work(task, step)`` does one file and returns its item; ``step(done, total)`` reports progress inside it."""


def do_task(work: Work, task: Task, step: Callable[[int, int], None]) -> Item:
    """One task, whose faults become a failed item instead of an exception."""
    start = time.perf_counter()
    trace = ""
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
    return Item(task.name, None, "failed", time.perf_counter() - start, error=reason, traceback=trace)
