"""Two runs compared: the difference of a metric over the same queries, and how sure it is."""

from __future__ import annotations

import numpy as np

from .measures import Difference, Evaluation

DRAWS = 2**21
"""Numbers per block of a bootstrap."""


def compare(
    first: Evaluation, second: Evaluation, metric: str, *, samples: int = 10_000, level: float = 0.95, seed: int = 0
) -> Difference:
    """Paired bootstrap over queries of the difference of two runs.

    Parameters
    ----------
    first, second : Evaluation
        Of the same queries, both with ``metric``.
    metric : str
    samples : int
        Resamplings; more make the interval steadier.
    level : float
        Share of the resampled differences inside the interval (percentiles).
    seed : int

    Raises
    ------
    ValueError
        If the queries differ, a run lacks the metric, or ``samples`` or ``level`` make no sense.
    """
    if first.queries != second.queries:
        raise ValueError("the two evaluations have different queries: evaluate both with the same judgements")
    if metric not in first.per_query or metric not in second.per_query:
        raise ValueError(f"{metric!r} was not evaluated for both runs")
    if samples < 1 or not 0 < level < 1:
        raise ValueError(f"samples must be at least 1 and level between 0 and 1, got {samples} and {level}")
    before, two = first.per_query[metric], second.per_query[metric]
    change, count = two - before, len(first.queries)
    generator = np.random.default_rng(seed)
    block = max(1, DRAWS // count)
    means = [
        change[generator.integers(0, count, (min(block, samples - start), count))].mean(axis=1)
        for start in range(0, samples, block)
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return Difference(
        metric, float(before.mean()), float(two.mean()), float(change.mean()), float(low), float(high), level, count
    )
