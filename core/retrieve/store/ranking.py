"""Scores and the order of hits: the same whatever the store, its blocks and its back end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from .base import SLACK

Candidate = TypeVar("Candidate")


def similarity(query: NDArray[np.float32], vectors: NDArray[Any]) -> NDArray[np.float32]:
    """Scores [n] of vectors [n, dim] for one query [dim].

    Summed in float64 and rounded once, so that equal vectors get equal scores whatever block or back end they come
    from: matrix products in float32 differ in the last bits with the position of a row.
    """
    return (vectors.astype(np.float64) @ query.astype(np.float64)).astype(np.float32)


def best(scores: NDArray[np.float32], ids: Sequence[str], k: int) -> list[int]:
    """Positions of the ``k`` best candidates in order: larger score first, then smaller id."""
    return sorted(range(len(ids)), key=lambda i: (-scores[i], ids[i]))[:k]


def until_decided(
    fetch: Callable[[int], tuple[NDArray[np.float32], list[Candidate]]], k: int, total: int
) -> tuple[NDArray[np.float32], list[Candidate]]:
    """Ask an engine that cuts ties as it likes for more than ``k`` results, until the k-th is clear of the last.

    Parameters
    ----------
    fetch : callable
        ``fetch(limit)`` gives at most ``limit`` scores and candidates.
    k, total : int
        How many are wanted; how many there are at most.
    """
    limit = min(k + 16, max(total, 1))
    while True:
        scores, rows = fetch(limit)
        if len(rows) < limit or limit >= total or np.sort(scores)[-k] - scores.min() > SLACK:
            return scores, rows
        limit = min(4 * limit, total)
