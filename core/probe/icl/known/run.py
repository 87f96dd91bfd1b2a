"""`attn probe icl --known`: every tool against circuits whose answers are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ....batch.run import run_batch
from ....batch.task import Task
from ....progress import Watcher
from ....report.model import Item, Report
from ....report.sections import Table
from .tools import TOOLS


def check_tools(
    options: Any, device: torch.device, start: float, watcher: Watcher, arguments: Mapping[str, Any]
) -> Report:
    """An item for each tool; one that is wrong is failed, and ends with exit code 3."""
    tasks = [Task(Path(name), None, name, payload=name, turn=turn) for turn, name in enumerate(TOOLS)]
    work = partial(check, seed=options.seed, device=device)
    outcome = run_batch(work, tasks, options.placement, watcher)
    return replace(outcome.report("probe", arguments, str(device), start), gate=True)


def check(task: Task, step: Callable[[int, int], None], seed: int, device: torch.device) -> Item:
    """All checks of one tool."""
    answers = list(TOOLS[str(task.payload)](seed, device))
    wrong = [answer for answer in answers if not answer.passed]
    rows = [
        {"check": a.check, "found": a.found, "expected": a.expected, "tolerance": a.tolerance, "passed": a.passed}
        for a in answers
    ]
    error = "; ".join(f"{a.check}: {a.found:.3g}, not {a.expected:g} (± {a.tolerance:g})" for a in wrong) or None
    return Item(
        input=task.name, output=None, status="failed" if wrong else "ok", seconds=0.0, error=error,
        metrics={"checks": float(len(answers)), "wrong": float(len(wrong))},
        sections=(Table("checks", rows, title=f"{task.name}: what was found, and what is known", printed=False),),
    )  # fmt: skip
