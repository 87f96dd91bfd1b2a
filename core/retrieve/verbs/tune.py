"""Choosing a temperature: on one half of the queries, judged on the other.

Specification: methods/tempscale.md, section 3.4. The best of several values on the queries it was chosen by is too
good; only the other half says what it is worth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...errors import UsageError
from ...progress import Bars, Watcher
from ..data.evalset import EvalSet, counted
from ..encoders.load import at_temperature, load
from ..score.metrics import Difference, Evaluation, Qrels, Run, compare, evaluate, parse_metric

GRID = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5)


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
        See ``evaluate.Rankings``.
    **options
        ``device``, ``dtype``, ``max_tokens``, ``pooling``, ``threads``, ``allow_download`` of ``load``.

    Raises
    ------
    UsageError
        If there are fewer than 4 queries with relevant documents, the model takes no temperature, or a value is not
        positive.
    """
    from .evaluate import Rankings, embed, identical_note

    parse_metric(metric)  # refused before the long work, as everything here
    grid = sorted({1.0, *grid}, reverse=True)
    first, second = halves(data.qrels, seed)
    encoder = load(model, **options)
    encoders = {tau: at_temperature(encoder, tau) for tau in grid}
    scored: dict[float, tuple[Evaluation, Evaluation]] = {}
    notes: list[str] = []
    for tau, scaled in encoders.items():
        found = embed(data, scaled, watcher or Bars())
        ranked = Rankings(data, found.documents, found.queries, keep_identical)
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
    one = {queries[i] for i in order[: len(order) // 2]}
    return {q: qrels[q] for q in queries if q in one}, {q: qrels[q] for q in queries if q not in one}


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
        {"temperature": tau, "chosen_on": one.values[metric], "held_out": two.values[metric]}
        for tau, (one, two) in scored.items()
    ]
    change = compare(scored[1.0][1], scored[best][1], metric, seed=seed)
    sizes = len(scored[1.0][0].queries), len(scored[1.0][1].queries)
    return Tuning(best, metric, table, change, sizes, seed)
