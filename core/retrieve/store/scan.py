"""Exact search: blocked matrix products that keep, for each query, every row that can be among the best k."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from .base import SLACK

BLOCK_ROWS = 16_384
BLOCK_QUERIES = 128


def as_float32(block: NDArray[np.floating]) -> NDArray[np.float32]:
    """Rows in float32. NumPy widens float16 one number at a time, three times slower than torch (measured)."""
    if block.dtype == np.float32:
        return block
    import torch

    wide: NDArray[np.float32] = torch.from_numpy(np.array(block)).float().numpy()
    return wide


def products(queries: NDArray[np.float32], block: NDArray[np.float32]) -> NDArray[np.float32]:
    """Dot products [q, b] of queries [q, dim] and rows [b, dim]."""
    if len(queries) == 1 and hasattr(np, "vecdot"):
        # NumPy 2; row by row, a fifth faster than OpenBLAS's matrix-vector product (measured)
        product: NDArray[np.float32] = np.vecdot(block, queries[0])[None]
        return product
    return queries @ block.T


def candidates(
    queries: NDArray[np.float32],
    parts: Iterable[tuple[NDArray[np.floating], NDArray[np.bool_]]],
    k: int,
    *,
    block_rows: int = BLOCK_ROWS,
) -> list[NDArray[np.int64]]:
    """Rows whose float32 score is not below the k-th best by more than ``SLACK``: at least all true best k.

    Parameters
    ----------
    queries : ndarray, shape (q, dim), float32
    parts : iterable of (vectors [n, dim], mask [n])
        The stored rows in pieces, numbered through; where the mask is False a row does not count.
    k : int
    block_rows : int
        Rows multiplied at a time.

    Returns
    -------
    list of q arrays of row numbers, in no particular order.
    """
    cut = np.full(len(queries), np.finfo(np.float32).min)  # above the -inf of masked rows
    enough = 8 * k * len(queries)  # more candidates than this, and it pays to raise the cut
    kept: list[_Found] = []
    first = 0
    for vectors, mask in parts:
        for start in range(0, len(vectors), block_rows):
            block, keep = vectors[start : start + block_rows], mask[start : start + block_rows]
            count, rows = int(np.count_nonzero(keep)), None
            if count == 0:
                continue
            if count < keep.size / 2:  # a selective filter: copy the few, do not multiply the many
                rows = np.flatnonzero(keep)
                block, keep = block[rows], keep[rows]
            scores = products(queries, as_float32(block))  # [q, b]
            if count < keep.size:
                scores[:, ~keep] = -np.inf
            places = _not_below(scores, cut)
            if places.size > enough and count > k:
                cut = np.maximum(cut, np.partition(scores, -k, axis=1)[:, -k] - SLACK)
                places = _not_below(scores, cut)
            query, column = np.divmod(places, scores.shape[1])
            kept.append((query, (column if rows is None else rows[column]) + (first + start), scores.ravel()[places]))
            if sum(query.size for query, _, _ in kept) > enough:
                kept, cut = _pruned(kept, cut, k)
        first += len(vectors)
    if not kept:
        return [np.empty(0, np.int64)] * len(queries)
    ((query, row, _),), _ = _pruned(kept, cut, k)
    return np.split(row, np.searchsorted(query, np.arange(1, len(queries))))


_Found: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]
"""Candidates: query, row, score."""


def _not_below(scores: NDArray[np.float32], cut: NDArray[np.float32]) -> NDArray[np.int64]:
    """Flat places in ``scores`` [q, b] that reach their query's ``cut`` [q]; NumPy finds them faster than pairs."""
    return np.flatnonzero(scores >= cut[:, None])


def _pruned(kept: list[_Found], cut: NDArray[np.float32], k: int) -> tuple[list[_Found], NDArray[np.float32]]:
    """The candidates by query without those that ``k`` others beat by more than ``SLACK``, and the raised cut."""
    query, row, score = (np.concatenate(values) for values in zip(*kept, strict=True))
    order = np.lexsort((-score, query))
    query, row, score = query[order], row[order], score[order]
    starts = np.searchsorted(query, np.arange(len(cut) + 1))
    full = np.flatnonzero(np.diff(starts) >= k)  # queries with k candidates
    cut = cut.copy()
    cut[full] = np.maximum(cut[full], score[starts[full] + k - 1] - SLACK)
    still = score >= cut[query]
    return [(query[still], row[still], score[still])], cut
