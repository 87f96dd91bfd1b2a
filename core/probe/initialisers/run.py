"""`attn probe initialisers`: every kind of start values trained, and all of them side by side.

Specification: methods/filter-design.md, section 5.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...batch.run import run_batch
from ...batch.task import Task
from ...filters import INITIALISERS
from ...io.atomic import place_fault, remove_stale
from ...options import OptionError, identity, stated, values
from ...progress import Bars, Watcher
from ...prune.shapes.words import COLOURS
from ...report.model import Item, Report, command_line_of
from ...report.sections import Curve, Picture, Section, Table
from ..frame import noted, request_of, result_of
from ..panel import FigureData, Origin, write_figure
from .figure import smoothed
from .options import InitialisersOptions
from .race import Race, run_race

WORD = "initialisers"
MARKS = (1, 10, 100, 1000)
"""Steps whose loss is told, where a run is as long."""
RESUMED = frozenset({"initialisers", "output"})
"""Options that do not decide what one kind of start values comes to."""


def run(
    options: InitialisersOptions, *, watcher: Watcher | None = None, arguments: Mapping[str, Any] | None = None
) -> Report:
    """Train from every kind of start values. Raises ``UsageError`` if there is no place to write to."""
    start = time.perf_counter()
    arguments = arguments or values(options)
    folder = Path(options.output or ".")
    if fault := place_fault(folder / f"{WORD}.png"):
        raise OptionError(f"{{output}} {folder}: {fault}.")
    remove_stale(folder)
    request = request_of("", settings_of(options))
    origin = Origin(command_line_of(arguments), "plain network", seed=options.seed, request=request)
    names = tuple(dict.fromkeys(options.initialisers))
    tasks = [
        Task(Path(name), folder / f"init-{name}.png", name, payload=name, turn=turn) for turn, name in enumerate(names)
    ]
    work = partial(look, options=options, origin=origin)
    outcome = run_batch(work, tasks, options.placement, watcher or Bars())
    items = [noted(item, request) for item in outcome.items]
    files, sections = together(items, folder, origin, options)
    return outcome.report("probe", arguments, "cpu", start, items=items, sections=sections, files=files)


def settings_of(options: InitialisersOptions) -> dict[str, Any]:
    """What decides the numbers of one kind of start values."""
    free = RESUMED | {option.field for option in stated(type(options.placement))}
    return {name: value for name, value in identity(options).items() if name not in free}


def look(task: Task, step: Callable[[int, int], None], options: InitialisersOptions, origin: Origin) -> Item:
    """Train from one kind of start values with every seed, and write what came of it."""
    assert task.output is not None
    total = options.seeds * options.steps
    races = []
    for number in range(options.seeds):

        def told(done: int, past: int = number * options.steps) -> None:
            step(past + done, total)

        races.append(
            run_race(
                task.payload, options.seed + number, steps=options.steps, batch=options.batch, layers=options.layers,
                width=options.width, rate=options.rate, step=told,
            )
        )  # fmt: skip
    found = numbers(races, options.goal)
    facts = {
        "initialisers": [task.name], "goal": options.goal, "chance": 1 / len(COLOURS), "what": INITIALISERS[task.name],
    }  # fmt: skip
    arrays: dict[str, NDArray[Any]] = {
        "loss": np.stack([race.loss for race in races])[None],
        "accuracy": np.stack([race.accuracy for race in races])[None], "looked": races[0].looked,
    }  # fmt: skip
    files = write_figure(
        task.output, FigureData(WORD, title(options, task.name), arrays, facts, origin), metrics=found
    )  # fmt: skip
    return Item(
        input=task.name, output=str(task.output), status="ok", seconds=0.0, metrics=found, files=files, details=facts
    )


def title(options: InitialisersOptions, name: str) -> str:
    """Of a figure."""
    return (
        f"{name}: {options.layers} convolutions of {options.width} channels, {options.seeds} seeds, "
        f"rate {options.rate:g}"
    )


def numbers(races: Sequence[Race], goal: float) -> dict[str, float]:
    """Means over the seeds; a loss or a number of steps that a seed does not have makes the mean NaN.

    ``spread`` is the standard deviation of the last accuracy between seeds, ``reached`` the number of seeds that came
    to the goal.
    """
    loss, accuracy = np.stack([race.loss for race in races]), np.stack([race.accuracy for race in races])
    steps = [race.steps_to(goal) for race in races]
    last = smoothed(loss)[:, -1]
    return {
        **{f"loss_{mark}": float(loss[:, mark - 1].mean()) for mark in MARKS if mark <= loss.shape[1]},
        "loss_last": float(last.mean()), "accuracy": float(accuracy[:, -1].mean()),
        "accuracy_spread": float(accuracy[:, -1].std(ddof=1)) if len(races) > 1 else math.nan,
        "steps_to_goal": float(np.mean(steps)) if np.isfinite(steps).all() else math.nan,
        "reached": float(np.isfinite(steps).sum()), "failures": float(sum(race.failed for race in races)),
    }  # fmt: skip


def together(
    items: Sequence[Item], folder: Path, origin: Origin, options: InitialisersOptions
) -> tuple[dict[str, str], tuple[Section, ...]]:
    """Figure, table and curves of all start values whose results are of this request, the most accurate first."""
    done: list[tuple[str, FigureData, dict[str, float]]] = []
    for item in items:
        if (data := result_of(item, origin.request)) is not None:
            arrays = data.arrays
            races = [
                Race(loss, arrays["looked"], accuracy)
                for loss, accuracy in zip(arrays["loss"][0], arrays["accuracy"][0], strict=True)
            ]
            done.append((item.input, data, numbers(races, options.goal)))
    if len(done) < 2:
        return {}, ()
    done.sort(key=lambda entry: -np.nan_to_num(entry[2]["accuracy"]))
    names = [name for name, _, _ in done]
    arrays = {
        "loss": np.concatenate([data.arrays["loss"] for _, data, _ in done]),
        "accuracy": np.concatenate([data.arrays["accuracy"] for _, data, _ in done]),
        "looked": done[0][1].arrays["looked"],
    }
    rows = [{"initialiser": name, **found} for name, _, found in done]
    table = Table("initialisers", rows, title="Start values, the most accurate first (means over seeds)", printed=False)
    path = folder / f"{WORD}.png"
    facts = {**done[0][1].facts, "initialisers": names, "what": ""}
    files = write_figure(
        path, FigureData(WORD, title(options, "start values"), arrays, facts, origin), sections=(table,)
    )
    lines = {name: smoothed(arrays["loss"][number]).mean(0).tolist() for number, name in enumerate(names)}
    curve = Curve("loss", lines, title="Loss, mean of ten steps and of the seeds", printed=False)
    return files, (table, Picture("figure", str(path), title="All start values"), curve)
