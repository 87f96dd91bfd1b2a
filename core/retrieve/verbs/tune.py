"""Choosing a temperature: on one half of the queries, judged on the other.

Specification: methods/tempscale.md, section 3.4. The best of several values on the queries it was chosen by is too
good; only the other half says what it is worth.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import attn

from ...device import pick_device, set_threads
from ...errors import UsageError
from ...progress import Bars, Watcher
from ...report.model import Item, Report, summarise
from ...report.sections import Table
from ..data.evalset import EvalSet, counted
from ..data.formats import read_dataset
from ..encoders.load import at_temperature, load
from ..options.judge import GRID, TuneOptions
from ..score.bootstrap import compare
from ..score.measures import Difference, Evaluation, parse_metric
from ..score.metrics import Qrels, Run, evaluate
from ..score.rankings import Rankings, identical_note
from .embed import embed


@dataclass(frozen=True, slots=True)
class Tuning:
    """What came out.

    Parameters
    ----------
    temperature : float
        Best on the half it was chosen on; of equal ones, the nearest to 1.
    metric : str
    table : list of dict
        One row a temperature: ``temperature``, ``chosen_on``, ``held_out`` (the metric on each half, in [0, 1]).
    held_out : Difference
        From temperature 1 to the chosen one on the half that had no say, with its paired bootstrap interval.
    queries : tuple of 2 int
        Queries of the two halves.
    seed : int
    notes : tuple of str
        What the user should know of the figures.
    """

    temperature: float
    metric: str
    table: list[dict[str, float]]
    held_out: Difference
    queries: tuple[int, int]
    seed: int
    notes: tuple[str, ...] = ()


def tune(
    data: str | Path,
    options: TuneOptions = TuneOptions(),  # noqa: B008 - frozen
    *,
    watcher: Watcher | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Report:
    """Choose the temperature of a model on one half of a data set's queries, and score it on the other.

    Parameters
    ----------
    data : str or Path
        See ``formats.read_dataset``.
    options : TuneOptions
    watcher : Watcher, optional
    arguments : mapping, optional
        What the report records as the call's arguments.

    Returns
    -------
    Report of one item: ``temperature``, and of the half that had no say ``held_out_at_1``, ``held_out``,
    ``difference`` with its interval from ``low`` to ``high`` (in percent), and ``queries``. A section
    ``temperatures`` has a row each.

    Raises
    ------
    UsageError
        As ``tune_temperature``.
    InputError
        If the data set cannot be read.
    """
    start = time.perf_counter()
    set_threads(options.threads)
    encoder = options.encoder
    data_set = read_dataset(data, split=options.split)
    tuning = tune_temperature(
        encoder.model, data_set, options.grid, options.seed, metric=options.metric, watcher=watcher,
        keep_identical=options.keep_identical, device=encoder.device, dtype=encoder.dtype,
        max_tokens=encoder.max_tokens, allow_download=encoder.allow_download,
    )  # fmt: skip
    held = tuning.held_out
    metrics = {
        "temperature": tuning.temperature, "held_out_at_1": 100 * held.first, "held_out": 100 * held.second,
        "difference": 100 * held.difference, "low": 100 * held.low, "high": 100 * held.high,
        "queries": float(tuning.queries[1]),
    }  # fmt: skip
    table = [
        {name: value if name == "temperature" else 100 * value for name, value in row.items()} for row in tuning.table
    ]
    seconds = time.perf_counter() - start
    item = Item(str(data), None, "ok", seconds, metrics=metrics, warnings=(*data_set.warnings, *tuning.notes))
    summary = dict(summarise([item])) | {"metric": options.metric}
    title = f"{options.metric} in percent, on the half that chose and on the held-out one"
    row = {
        "input": item.input, "chosen temperature": tuning.temperature, f"{options.metric} at 1": 100 * held.first,
        f"{options.metric} at the chosen one": 100 * held.second, "difference": 100 * held.difference,
        "95 % from": 100 * held.low, "to": 100 * held.high, "queries": tuning.queries[1],
    }  # fmt: skip
    named = arguments or {"verb": "tune-temperature", "data": str(data), "model": encoder.model}
    device = str(pick_device(encoder.device))
    return Report(
        "retrieve", attn.__version__, dict(named), device, seconds, (item,), summary,
        sections=(Table("temperatures", table, title=title),), overview=(row,),
    )  # fmt: skip


def tune_temperature(
    model: str, data: EvalSet, grid: Sequence[float] = GRID, seed: int = 0, *, metric: str = "ndcg@10",
    watcher: Watcher | None = None, keep_identical: bool = False, **options: Any,
) -> Tuning:  # fmt: skip
    """Encode the data set at each temperature and choose.

    Parameters
    ----------
    model : str
        See ``encoders.load.load``; it must encode what the data set holds.
    data : EvalSet
    grid : sequence of float
        Temperatures to try; 1 is always among them.
    seed : int
        Of the split into halves and of the bootstrap.
    metric : str
        See ``metrics.evaluate``.
    watcher : Watcher, optional
    keep_identical : bool
        See ``rankings.Rankings``.
    **options
        ``device``, ``dtype``, ``max_tokens``, ``pooling``, ``threads``, ``allow_download`` of ``load``.

    Raises
    ------
    UsageError
        If there are fewer than 4 queries with relevant documents, the model takes no temperature, or a value is not
        positive.
    """
    parse_metric(metric)  # refused before the long work, as everything here
    grid = sorted({1.0, *grid}, reverse=True)
    first, second = halves(data.qrels, seed)
    encoder = load(model, **options)
    encoders = {tau: at_temperature(encoder, tau) for tau in grid}
    scored: dict[float, tuple[Evaluation, Evaluation]] = {}
    notes: list[str] = []
    for tau, scaled in encoders.items():
        embedded = embed(data, scaled, watcher or Bars())
        ranked = Rankings(data, embedded.documents, embedded.queries, keep_identical)
        scored[tau] = tuple(ranked.of(half).evaluate((metric,)) for half in (first, second))  # type: ignore[assignment]
        notes = identical_note(ranked)
    if silent := len(data.qrels) - len(first) - len(second):
        notes.append(counted(silent, "query has", "queries have") + " no relevant document: in neither half")
    return replace(chosen(scored, metric, seed), notes=tuple(notes))


def halves(qrels: Qrels, seed: int) -> tuple[Qrels, Qrels]:
    """The judgements of two random halves of the queries; queries without relevant documents have no say.

    Raises
    ------
    UsageError
        If fewer than 4 queries have any.
    """
    queries = [query for query, judged in qrels.items() if any(level > 0 for level in judged.values())]
    if len(queries) < 4:
        raise UsageError(f"a temperature is chosen on 4 queries or more, {len(queries)} have relevant documents.")
    order = np.random.default_rng(seed).permutation(len(queries))
    first = {queries[i] for i in order[: len(order) // 2]}
    return {q: qrels[q] for q in queries if q in first}, {q: qrels[q] for q in queries if q not in first}


def choose(runs: dict[float, Run], first: Qrels, second: Qrels, metric: str, seed: int) -> Tuning:
    """The temperature whose run is best by ``first``, compared with 1 by ``second``.

    Parameters
    ----------
    runs : dict of temperature to Run
        1 must be among them.
    first, second : Qrels
        Of different queries.
    metric : str
    seed : int
    """
    return chosen(
        {
            tau: (
                evaluate(first, {q: run.get(q, {}) for q in first}, (metric,)),
                evaluate(second, {q: run.get(q, {}) for q in second}, (metric,)),
            )
            for tau, run in runs.items()
        },
        metric,
        seed,
    )


def chosen(scored: Mapping[float, tuple[Evaluation, Evaluation]], metric: str, seed: int) -> Tuning:
    """The temperature that is best in the first evaluation, compared with 1 in the second."""
    best = max(scored, key=lambda tau: (scored[tau][0].values[metric], -abs(tau - 1)))
    table = [
        {"temperature": tau, "chosen_on": first.values[metric], "held_out": two.values[metric]}
        for tau, (first, two) in scored.items()
    ]
    change = compare(scored[1.0][1], scored[best][1], metric, seed=seed)
    sizes = len(scored[1.0][0].queries), len(scored[1.0][1].queries)
    return Tuning(best, metric, table, change, sizes, seed)
