"""The metrics of one query, each from the ranks of its relevant documents: methods/retrieval-peers.md, section 6."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError, did_you_mean


@dataclass(frozen=True, slots=True)
class Ranked:
    """Where the relevant documents of one query are.

    Parameters
    ----------
    ranks : ndarray [F], int64
        Ranks from 1 of those found, ascending.
    gains : ndarray [F], float64
        Their gains, in the same order.
    ideal : ndarray [R], float64
        Gains of all relevant documents, found or not, largest first; R >= 1 (a query without any is worth 0).
    answered : bool
        The run holds results of it.
    """

    ranks: NDArray[np.int64]
    gains: NDArray[np.float64]
    ideal: NDArray[np.float64]
    answered: bool = True


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Metrics of one run.

    Parameters
    ----------
    queries : tuple of str
        Ids of the queries that count, in the order of the judgements.
    per_query : mapping of str to ndarray [Q]
        Metric -> value of each of these queries.
    dropped : int
        Queries that do not count: without judgements, or, where so asked for, without any relevant document.
    unanswered : int
        Queries that count but have no results; their values are 0.
    unanswerable : int
        Queries that count but have judgements of 0 and below only; their values are 0, as in trec_eval.
    """

    queries: tuple[str, ...]
    per_query: Mapping[str, NDArray[np.float64]]
    dropped: int = 0
    unanswered: int = 0
    unanswerable: int = 0

    @property
    def values(self) -> dict[str, float]:
        """Metric -> mean over the queries."""
        return {name: float(values.mean()) for name, values in self.per_query.items()}


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean of ``second`` minus mean of ``first`` with its confidence interval; significant when 0 lies outside."""

    metric: str
    first: float
    second: float
    difference: float
    low: float
    high: float
    level: float
    queries: int

    @property
    def significant(self) -> bool:
        return not self.low <= 0 <= self.high


def _ndcg(ranked: Ranked, k: int) -> float:
    kept = ranked.ranks <= k
    best = ranked.ideal[:k]
    ideal = best @ (1 / np.log2(np.arange(2, best.size + 2)))
    return float(ranked.gains[kept] @ (1 / np.log2(ranked.ranks[kept] + 1)) / ideal)


def _recall(ranked: Ranked, k: int) -> float:
    return float((ranked.ranks <= k).sum() / ranked.ideal.size)


def _average_precision(ranked: Ranked, k: int) -> float:
    """Divided by all relevant documents, as trec_eval does, not by min(k, R)."""
    ranks = ranked.ranks[ranked.ranks <= k]
    return float((np.arange(1, ranks.size + 1) / ranks).sum() / ranked.ideal.size)


def _reciprocal_rank(ranked: Ranked, k: int) -> float:
    return 1 / float(ranked.ranks[0]) if ranked.ranks.size and ranked.ranks[0] <= k else 0.0


def _hit(ranked: Ranked, k: int) -> float:
    return float(ranked.ranks.size > 0 and ranked.ranks[0] <= k)


def _inverse_negative_penalty(ranked: Ranked, k: int) -> float:
    """R / rank of the last relevant document; 0 when the run misses one, whose rank is unknown."""
    missed = ranked.ranks.size < ranked.ideal.size or ranked.ranks[-1] > k
    return 0.0 if missed else ranked.ideal.size / float(ranked.ranks[-1])


MEASURES: dict[str, Callable[[Ranked, int], float]] = {
    "ndcg": _ndcg,
    "recall": _recall,
    "map": _average_precision,
    "mrr": _reciprocal_rank,
    "hit": _hit,
    "minp": _inverse_negative_penalty,
}
"""By name; ``@k`` behind it cuts the ranking after k documents."""


def parse_metric(text: str) -> tuple[str, int]:
    """Name and cut of ``ndcg@10``; without ``@`` the whole ranking counts.

    Raises
    ------
    UsageError
        If the name is unknown or the cut is no whole number of at least 1.
    """
    name, _, cut = text.strip().lower().partition("@")
    if name not in MEASURES:
        hint = did_you_mean(name, MEASURES)
        raise UsageError(f"no metric named {text!r}. {hint} There are: {', '.join(MEASURES)}".replace("  ", " "))
    if "@" not in text:
        if name in ("recall", "hit"):
            raise UsageError(f"metric {text!r} needs a cut, for example {name}@10")
        return name, int(np.iinfo(np.int64).max)
    if not re.fullmatch("[0-9]{1,9}", cut) or int(cut) < 1:
        raise UsageError(f"metric {text!r}: the cut must be a whole number of at least 1")
    return name, int(cut)


def relevant_ranks(
    scores: NDArray[Any], relevant: NDArray[np.intp], ids: Sequence[str] | None = None, *, descending: bool = False
) -> NDArray[np.int64]:
    """Ranks from 1 of some documents among all, by score, then id.

    Parameters
    ----------
    scores : ndarray [N], float
    relevant : ndarray [F], int
        Positions of the documents asked for.
    ids : sequence of N str, optional
        Break ties; without them the position does.
    descending : bool
        Equal scores by descending id, as trec_eval ranks them.

    Returns
    -------
    ndarray [F], in the order of ``relevant``.

    Raises
    ------
    ValueError
        If a score is NaN.

    Notes
    -----
    Sorts the scores alone, which is several times faster than to sort positions by them; each rank is then one binary
    search, and only scores that occur twice look at ids.
    """
    ascending = np.sort(scores)
    if ascending.size and np.isnan(ascending[-1]):  # NaN sorts last
        raise ValueError("the scores hold NaN: they cannot be ranked")
    wanted = scores[relevant]
    first = np.searchsorted(ascending, wanted, side="left")
    after = np.searchsorted(ascending, wanted, side="right")
    ranks = scores.size - after + 1
    for i in np.flatnonzero(after - first > 1):
        place = relevant[i]
        equal = np.flatnonzero(scores == wanted[i])
        if ids is None:
            ranks[i] += (equal < place).sum()
        else:
            mine = ids[int(place)]
            ranks[i] += sum((ids[j] > mine) if descending else (ids[j] < mine) for j in equal.tolist())
    return np.asarray(ranks, np.int64)
