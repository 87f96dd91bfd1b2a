"""The entry that is kept for each entry: the rule of `attn retrieve dedup`, searched exactly.

Never are there n x n scores:

1. A block of entries is compared with the entries kept so far, in blocks of these, in ``head`` dimensions: rotated to
   their principal axes (of a sample), x·y <= head(x)·head(y) + |tail(x)| |tail(y)|, so where this bound is below t so
   is the cosine. The norm of the tail is one more column, hence the bound is one matrix product.
2. Pairs that the bound leaves are scored in float64. Where it leaves too many (a low t, or vectors without principal
   axes) the whole product is taken, and only scores within rounding of t are scored again.
3. Inside the block, entries in order: each that is still free is kept, and takes those after it that are within t.

Specification: methods/retrieval-peers.md, section 8.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..store.base import SLACK


@dataclass(frozen=True, slots=True)
class Sizes:
    """How the work is divided: the result does not depend on it.

    Parameters
    ----------
    block, kept : int
        Entries compared at a time, with so many kept ones: 16 MB of scores, which malloc uses again (measured: larger
        blocks take twice the time).
    head, sample : int
        Dimensions of the bound, and vectors from which its axes are taken.
    many : float
        Share of the pairs above which the whole product is cheaper than pairs one by one.
    pairs : int
        Pairs scored in float64 at a time.
    """

    block: int = 1_024
    kept: int = 4_096
    head: int = 64
    sample: int = 4_096
    many: float = 1e-3
    pairs: int = 4_096


SIZES = Sizes()


def owners(
    vectors: NDArray[np.float32], order: NDArray[np.int64], threshold: float, sizes: Sizes = SIZES
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """For each entry, the entry that is kept for it.

    Parameters
    ----------
    vectors : ndarray, shape (n, dim), float32
        Unit rows.
    order : ndarray, shape (n,), int64
        Rows in the order in which they are taken.
    threshold : float
        In (0, 1].
    sizes : Sizes

    Yields
    ------
    int, ndarray of shape (n,), int64
        How many are done, and the answer up to there, the same array each time: positions in ``order``, its own for an
        entry that is kept.
    """
    owner = np.full(len(order), -1, np.int64)
    kept = np.empty(len(order), np.int64)
    bound = _Bound(vectors, order, sizes)
    count = 0
    for start in range(0, len(order), sizes.block):
        rows = vectors[order[start : start + sizes.block]]  # [b, dim]
        mine = owner[start : start + sizes.block]
        bound.add(rows)
        for first in range(0, count, sizes.kept):
            free = np.flatnonzero(mine < 0)
            some = kept[first : min(first + sizes.kept, count)]
            row, column = _within(vectors, order, start + free, some, threshold, bound)
            row, at = np.unique(row, return_index=True)  # pairs are in order: the first kept entry of each
            mine[free[row]] = some[column[at]]
        free = np.flatnonzero(mine < 0)
        mine[free] = start + free[_greedy(rows[free], threshold, sizes.pairs)]
        new = start + free[mine[free] == start + free]
        kept[count : count + len(new)] = new
        count += len(new)
        yield start + len(rows), owner


class _Bound:
    """Step 1: for each entry ``head`` coordinates and the norm of the others. Useless once it left too many pairs."""

    def __init__(self, vectors: NDArray[np.float32], order: NDArray[np.int64], sizes: Sizes) -> None:
        dim, head = vectors.shape[1], sizes.head
        self.sizes = sizes
        self.useful = dim >= 2 * head and len(order) > sizes.block
        self.heads = np.empty((len(order) if self.useful else 0, head + 1), np.float32)
        self.done = 0
        if self.useful:
            sample = vectors[order[np.linspace(0, len(order) - 1, min(sizes.sample, len(order))).astype(np.int64)]]
            wide = sample.astype(np.float64)
            self.axes = np.linalg.eigh(wide.T @ wide)[1][:, -head:].astype(np.float32)  # [dim, head]

    def add(self, rows: NDArray[np.float32]) -> None:
        """Take the next rows [b, dim]."""
        if self.useful:
            head = rows @ self.axes
            rest = 1 - np.einsum("nd,nd->n", head, head)
            into = self.heads[self.done : self.done + len(rows)]
            into[:, :-1] = head
            into[:, -1] = np.sqrt(np.maximum(rest, 0) + SLACK)  # never too small: a root magnifies rounding at 0
        self.done += len(rows)


def _within(
    vectors: NDArray[np.float32], order: NDArray[np.int64], some: NDArray[np.int64], kept: NDArray[np.int64],
    threshold: float, bound: _Bound,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:  # fmt: skip
    """Pairs of entries ``some`` and ``kept`` (positions) within the threshold, by ``some``, then by ``kept``."""
    if bound.useful:
        places = _reach(bound.heads[some], bound.heads[kept], threshold)[0]
        if places.size <= max(bound.sizes.many * some.size * kept.size, bound.sizes.pairs):
            sure = np.zeros(places.size, bool)
        else:
            bound.useful = False
    if not bound.useful:
        places, scores = _reach(vectors[order[some]], vectors[order[kept]], threshold)
        sure = scores >= threshold + SLACK
    row, column = np.divmod(places, kept.size)
    near = sure.copy()
    a, b = order[some[row[~sure]]], order[kept[column[~sure]]]
    near[~sure] = cosines(vectors, a, b, bound.sizes.pairs) >= np.float32(threshold)
    return row[near], column[near]


def _reach(
    a: NDArray[np.float32], b: NDArray[np.float32], threshold: float
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Flat places, and values there, of the product [a, b] that are not below the threshold by more than rounding."""
    import torch

    scores = (torch.from_numpy(a) @ torch.from_numpy(b).T).numpy().ravel()  # torch's, because --threads is for torch
    places = np.flatnonzero(scores >= threshold - SLACK)
    return places, scores[places]


def cosines(
    vectors: NDArray[np.float32], a: NDArray[np.int64], b: NDArray[np.int64], pairs: int = SIZES.pairs
) -> NDArray[np.float32]:
    """Cosines [m] of pairs of rows, in float64 and rounded once: equal vectors have exactly 1."""
    out = np.empty(len(a), np.float32)
    for start in range(0, len(a), pairs):
        part = slice(start, start + pairs)
        x, y = (vectors[rows[part]].astype(np.float64) for rows in (a, b))
        xy, xx, yy = (np.einsum("nd,nd->n", *pair) for pair in ((x, y), (x, x), (y, y)))
        out[part] = xy / np.sqrt(xx * yy)
    return out


def _greedy(rows: NDArray[np.float32], threshold: float, pairs: int) -> NDArray[np.int64]:
    """Step 3: for each of the rows [m, dim] the row that is kept for it."""
    import torch

    owner = np.arange(len(rows))
    free = np.ones(len(rows), bool)
    scores = (torch.from_numpy(rows) @ torch.from_numpy(rows).T).numpy()  # [m, m]
    scores[np.tri(len(rows), dtype=bool)] = -2  # below every cosine: only those after an entry can join it
    for row in np.flatnonzero(scores.max(1, initial=-2) >= threshold - SLACK):
        if free[row]:
            near = np.flatnonzero((scores[row] >= threshold - SLACK) & free)
            unsure = near[scores[row, near] < threshold + SLACK]
            not_near = unsure[cosines(rows, np.full(len(unsure), row), unsure, pairs) < np.float32(threshold)]
            near = np.setdiff1d(near, not_near, assume_unique=True)
            owner[near], free[near] = row, False
    return owner
