"""How alike two maps are."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def cosine(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Cosine of the angle between two maps of one shape, flattened; NaN where one is zero everywhere.

    Maps without negative values are never far below 1, whatever they show: ``spearman`` tells those apart.
    """
    x, y = _flat(one, other)
    lengths = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y / lengths) if lengths > 0 else float("nan")


def spearman(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Rank correlation of two maps of one shape, ties sharing their mean rank; NaN where one is the same everywhere."""
    from scipy.stats import rankdata

    x, y = _flat(one, other)
    x, y = (ranks - ranks.mean() for ranks in (rankdata(x), rankdata(y)))
    lengths = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y / lengths) if lengths > 0 else float("nan")


def mean_agreement(maps: Sequence[NDArray[Any]]) -> float:
    """Mean ``spearman`` of all pairs; a pair that has none (a flat map) counts as 0: it agrees on nothing."""
    pairs = [spearman(one, other) for one, other in itertools.combinations(maps, 2)]
    if not pairs:
        raise ValueError("agreement needs two maps at least")
    return float(np.mean(np.nan_to_num(pairs)))


def _flat(one: NDArray[Any], other: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if one.shape != other.shape:
        raise ValueError(f"maps of {list(one.shape)} and {list(other.shape)} cannot be compared")
    x, y = (np.asarray(values, np.float64).ravel() for values in (one, other))
    known = np.isfinite(x) & np.isfinite(y)
    return x[known], y[known]
