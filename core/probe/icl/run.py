"""`attn probe icl`: networks trained, their circuits read, and their errors held against theory.

Paper: "In-Context Linear Regression Demystified", ICML 2025, arXiv 2503.12734. Specification:
methods/icl-regression.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...batch.run import run_batch
from ...batch.task import Task
from ...device import pick_device
from ...errors import InputError
from ...fit.loop import fit
from ...fit.state import CHECKPOINT, read_state
from ...io.atomic import place_fault, remove_stale
from ...memory import check_memory
from ...models.files import sha256
from ...options import OptionError, stated, values
from ...progress import Bars, Watcher
from ...report.model import Item, Report, command_line_of
from ...report.sections import Picture, Section, Table
from ..frame import noted, request_of, result_of
from ..panel import FigureData, Origin, write_figure
from .circuit import diagnose
from .errors import measured
from .findings import WAYS, Findings, spread
from .known.run import check_tools
from .network import HeadMatrices, InContextHeads
from .options import LINEAR, IclOptions
from .problem import Problem
from .training import InContextRecipe, arrays_of, plan_of
from .weights import read_heads

WORD = "icl"
ALL = "icl-all"
"""Kind of the figure of all networks."""
FREE = frozenset({"networks", "output", "device", "weights"})
"""Options that do not decide what one kind of network comes to; the fingerprint stands for weights."""
JUDGED = frozenset({"lengths", "prompts", "steps", "known"})
"""Options that a run that goes on may change."""


def run(options: IclOptions, *, watcher: Watcher | None = None, arguments: Mapping[str, Any] | None = None) -> Report:
    """Train and judge every kind of network, or judge those of a file, or check the tools.

    Raises
    ------
    UsageError
        If there is no place to write to, no such device, or the place holds an unfinished run of other settings.
    """
    start = time.perf_counter()
    arguments, watcher = arguments or values(options), watcher or Bars()
    device = pick_device(options.device)
    if options.known:
        return check_tools(options, device, start, watcher, arguments)
    folder = Path(options.output or ".")
    if fault := place_fault(folder / f"{WORD}.png"):
        raise OptionError(f"{{output}} {folder}: {fault}.")
    remove_stale(folder)
    weights, model = "", "in-context regression"
    if options.weights is not None:
        weights, model = fingerprint_of(options.weights), str(options.weights)
    request = request_of(weights, settings_of(options))
    origin = Origin(command_line_of(arguments), model, weights, seed=options.seed, request=request)
    tasks = [
        Task(Path(title_of(name)), folder / f"{WORD}-{name}.png", title_of(name), payload=name, turn=turn)
        for turn, name in enumerate(names_of(options))
    ]
    outcome = run_batch(partial(look, options=options, origin=origin), tasks, options.placement, watcher)
    items = [noted(item, request) for item in outcome.items]
    files, sections = together(items, folder, origin)
    return outcome.report("probe", arguments, str(device), start, items=items, sections=sections, files=files)


def names_of(options: IclOptions) -> tuple[str, ...]:
    """What is judged: kinds of networks, or the file's stem."""
    return options.trained if options.weights is None else (options.weights.stem.removeprefix(f"{WORD}-") + "-probed",)


def title_of(name: str) -> str:
    """Of a kind of network."""
    if name.isdecimal():
        return "1 head" if name == "1" else f"{name} heads"
    return name


def settings_of(options: IclOptions) -> dict[str, Any]:
    """What decides the numbers of one kind of network."""
    free = FREE | {option.field for option in stated(type(options.placement))}
    settings = {name: value for name, value in values(options).items() if name not in free}
    kind = {"networks": options.networks} if options.weights else {}
    return settings | kind | {"lengths": options.measured_lengths}


def fingerprint_of(path: Path) -> str:
    """Of a file's content. Raises ``InputError`` where it cannot be read."""
    try:
        return sha256(path)
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror or error})", "Name an NPZ") from error


def problem_of(options: IclOptions) -> Problem:
    """What is drawn."""
    many = options.variances * (options.dim if len(options.variances) == 1 else 1)
    return Problem(options.dim, options.length, options.noise, options.tasks, many)


def look(task: Task, step: Callable[[int, int], None], options: IclOptions, origin: Origin) -> Item:
    """Train networks of one kind, or read them; judge them, and write what was found."""
    assert task.output is not None
    problem, name = problem_of(options), str(task.payload)
    track: dict[str, NDArray[Any]] = {}
    if options.weights is None:
        network, track = train(task.output.with_suffix(""), step, options, problem, name)
        heads, kind = HeadMatrices(*(x.detach() for x in network.heads)), network.kind
        names = [str(options.seed + number) for number in range(options.seeds)]
    else:
        heads = read_heads(options.weights, problem)
        kind = "linear" if options.networks == (LINEAR,) else "softmax"
        heads = HeadMatrices(*(x.to(pick_device(options.device)) for x in heads))
        names = [str(number) for number in range(len(heads.kq))]
    with np.errstate(over="ignore", invalid="ignore"):
        errors = measured(
            problem, options.measured_lengths, options.prompts, heads, kind, attend_query=options.attend_query
        )
    if not np.isfinite(errors.means["network"]).all():
        raise InputError(task.name, "its errors are no finite numbers: its matrices are too large", "Train it anew")
    circuits = [diagnose(kq, ov, problem) for kq, ov in arrays_of(heads)]
    found = Findings(problem, kind, heads, circuits, errors, names)
    metrics, tables = found.metrics(), found.tables()
    facts = {
        "network": task.name, "attention": kind, "heads": heads.kq.shape[1], "networks": len(names),
        "dim": problem.dim, "length": problem.length, "noise": problem.noise, "tasks": problem.tasks,
        "variances": list(problem.eigenvalues), "attend_query": options.attend_query, "prompts": options.prompts,
    }  # fmt: skip
    if options.weights is None:
        facts |= {
            "updates": options.steps, "prompts_trained_on": options.steps * options.batch,
            "examples_trained_on": options.steps * options.batch * problem.length, "rate": options.rate,
        }  # fmt: skip
    data = FigureData(WORD, figure_title(facts), found.arrays() | track, facts, origin)
    files = write_figure(task.output, data, metrics=metrics, sections=tables)
    return Item(
        input=task.name, output=str(task.output), status="ok", seconds=0.0, metrics=metrics, files=files,
        details=facts, sections=tables,
    )  # fmt: skip


def train(
    folder: Path, step: Callable[[int, int], None], options: IclOptions, problem: Problem, name: str
) -> tuple[InContextHeads, dict[str, NDArray[Any]]]:
    """Networks of one kind, one a seed, and how they came to be.

    Raises
    ------
    InputError
        If the loss is no number, or memory does not suffice.
    OptionError
        If the folder holds a run of other settings.
    KeyboardInterrupt
        As it came: what was trained until the last evaluation stays.
    """
    seeds = range(options.seed, options.seed + options.seeds)
    count = 1 if name == LINEAR else int(name)
    numbers = options.seeds * options.batch * (6 * count + 3 * problem.width) * (options.length + 1)
    check_memory(title_of(name), 4 * numbers, "its training takes", "Train fewer seeds, or on smaller batches")
    network = InContextHeads(
        problem, seeds, count, options.init_std, kind="linear" if name == LINEAR else "softmax",
        factored=options.factored, paired=options.paired_init, attend_query=options.attend_query,
    ).to(pick_device(options.device))  # fmt: skip
    recipe = InContextRecipe(network, seeds, options.batch)
    first = {"step": 0.0, **recipe.evaluate(network)}
    makes = {key: value for key, value in settings_of(options).items() if key not in JUDGED} | {"network": name}
    try:
        outcome = fit(
            recipe, plan_of(options.steps, options.rate, options.seeds, options.seed), folder,
            resume=not options.placement.overwrite, identity=makes, progress=lambda done, all_, _: step(done, all_),
        )  # fmt: skip
    except FloatingPointError as error:
        what = f"{str(error).partition(':')[0]}; {folder} keeps what was trained until the last evaluation"
        raise InputError(title_of(name), what, "Give a lower rate, and another folder or overwrite") from error
    except OptionError as error:
        raise OptionError(error.text.replace("{restart}", "{overwrite}")) from error
    if outcome.interrupted:
        raise KeyboardInterrupt
    load_last(folder, network)
    return network, tracks([first, *outcome.history], options.seeds, count, problem.tasks)


def load_last(folder: Path, network: InContextHeads) -> None:
    """The weights of the last step, where the loop leaves those of the best evaluation: nothing is selected here."""
    network.load_state_dict(read_state(folder / CHECKPOINT, {})["model"])


def tracks(rows: Sequence[Mapping[str, float]], seeds: int, heads: int, tasks: int) -> dict[str, NDArray[Any]]:
    """Evaluations as arrays: track_step [T], track_mse [S, T], track_omega and track_mu [S, H, K, T]."""
    out = {"track_step": np.array([row["step"] for row in rows], np.int64)}
    out["track_mse"] = np.array([[row[f"mse_{s}"] for row in rows] for s in range(seeds)])
    for name in ("omega", "mu"):
        out[f"track_{name}"] = np.array([
            [[[row[f"{name}_{s}_{h}_{k}"] for row in rows] for k in range(tasks)] for h in range(heads)]
            for s in range(seeds)
        ])  # fmt: skip
    return out


def figure_title(facts: Mapping[str, Any]) -> str:
    """Of a figure."""
    many = f"{facts['networks']} network{'s' * (facts['networks'] != 1)}"
    tasks = f", {facts['tasks']} tasks" if facts["tasks"] > 1 else ""
    return (
        f"{facts['network']}: {many}, {facts['dim']} covariates, {facts['length']} examples, noise {facts['noise']:g}"
        f"{tasks}"
    )


def together(items: Sequence[Item], folder: Path, origin: Origin) -> tuple[dict[str, str], tuple[Section, ...]]:
    """Figure and table of all networks whose results are of this request."""
    done = {item.input: data for item in items if (data := result_of(item, origin.request)) is not None}
    if len(done) < 2:
        return {}, ()
    first = next(iter(done.values()))
    arrays: dict[str, NDArray[Any]] = {"lengths": first.arrays["lengths"]}
    for name, values_ in first.arrays.items():
        if name.startswith("mse_") and name.removeprefix("mse_") not in WAYS:
            arrays[name] = values_
    rows = []
    for number, (name, data) in enumerate(done.items()):
        for way in WAYS:
            if (mse := data.arrays.get(f"mse_{way}")) is not None:
                arrays[f"{way}_{number}"] = mse
                cells = {f"mse_{length}": float(mse[:, at].mean()) for at, length in enumerate(arrays["lengths"])}
                spreads = {f"spread_{length}": spread(mse[:, at]) for at, length in enumerate(arrays["lengths"])}
                rows.append(
                    {"network": name + (", divided by length" if way == "rescaled" else ""), **cells, **spreads}
                )
    facts = {**first.facts, "network": "all networks", "names": list(done)}
    table = Table("networks", rows, title="Errors of all networks, by examples in the prompt", printed=False)
    path = folder / f"{WORD}.png"
    files = write_figure(path, FigureData(ALL, figure_title(facts), arrays, facts, origin), sections=(table,))
    return files, (table, Picture("figure", str(path), title="All networks"))
