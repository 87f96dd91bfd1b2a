"""The best tokens of candidate key blocks by their index scores: a numba kernel for the CPU.

The flat search is the same with every visible block as a candidate.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from ...jit import FASTMATH, kernel
from ...threads import kernels_own_the_threads, run, thread_count
from ..tokens.emit_cpu import emit, emit_ties
from ..tokens.top_k_cpu import LARGEST, ranked, threshold
from .products_cpu import BlockProducts, Floats, Ints, KeyBlocks, Longs

_ZERO, _INF = np.float32(0), np.float32(np.inf)
LARGEST_BLOCK = 512
_SCORES = 1 << 23  # of a chunk of queries, per thread: 32 MB
_ROWS = 256  # queries of a chunk at most


@njit(fastmath=FASTMATH, error_model="numpy")
def _index_scores(x: Floats, weights: Floats, target: Floats) -> None:
    """target[j] = sum over h of weights[h] max(x[h, j], 0), of which NaN stays NaN."""
    for h in range(weights.size):
        dot, weight = x[h, : target.size], weights[h]
        if h == 0:
            for j in range(target.size):
                target[j] = weight * (_ZERO if dot[j] <= _ZERO else dot[j])
        else:
            for j in range(target.size):
                target[j] += weight * (_ZERO if dot[j] <= _ZERO else dot[j])


@njit(fastmath=FASTMATH, error_model="numpy")
def _cut(scores: Floats, top_k: int, guess: Any, force: bool) -> tuple[Any, Any, Any]:
    """``threshold`` of visible scores, made fit for it in place; (-inf, inf, 0), all, where there are few enough.

    ``force``: the first and the last are chosen whatever their scores.
    """
    ranked(scores, LARGEST if force else _INF)  # below what is forced
    if scores.size <= top_k:
        return -_INF, _INF, 0
    if force:
        scores[0] = _INF
        scores[scores.size - 1] = _INF
    return threshold(scores, top_k, guess)


@kernel(
    "void(float32[:,:,::1],int32[:,::1],int32[::1],float32[:,::1],int64[::1],int64[::1],int64[::1],int64,boolean,boolean,"
    "float32[::1],int32[::1],float32[:,::1],int32[:,::1],int32[:,::1],float32[:,:,::1])"
)
def _select(
    x: Floats, blocks: Ints, counts: Ints, weights: Floats, ks: Longs, ke: Longs, origin: Longs, size: int,
    signed: bool, force: bool, row: Floats, numbers: Ints, chosen: Floats, out: Ints, ends: Ints, values: Floats,
) -> None:  # fmt: skip
    """The best tokens in [ks, ke) of each query's blocks, ascending, -1 at the end, into ``out`` [m, K].

    Products ``x`` [m * heads, S, wide]. A query's blocks ascend and hold ks and ke - 1, so its visible scores are one
    piece. ``signed``: scores are the products of the one head there is. ``force``: the first and the last visible one
    are chosen whatever their scores. ``origin`` [m] is subtracted. ``row`` and ``numbers`` [S * size + 16] are scratch,
    and so are ``chosen`` [H, S * size + 16]: none, or one for each head, and then ``values`` [m, H, K] are the products
    of the chosen. ``ends`` [m, S]: how many tokens of a list stand in its blocks up to this one.
    """
    guess = _ZERO
    heads, top_k, slots, wide = weights.shape[1], out.shape[1], x.shape[1], x.shape[2]
    flat, kept = x.reshape(x.size), chosen.reshape(chosen.size)
    for t in range(out.shape[0]):
        n: Any = np.int64(0)
        if counts[t] > 0:
            start = ks[t] - np.int64(blocks[t, 0]) * size
            stop = (counts[t] - 1) * size + ke[t] - np.int64(blocks[t, counts[t] - 1]) * size
            # of one head, products that are positive are in the order of their scores, and need no copy
            scores, at, lo = flat, t * slots * wide, _ZERO
            if signed or (heads == 1 and wide == size and weights[t, 0] > _ZERO):
                hi, lo, ties = _cut(scores[at + start : at + stop], top_k, guess, force)
            if not (signed or lo > _ZERO):
                scores, at = row, 0
                for s in range(counts[t]):
                    _index_scores(x[t * heads : (t + 1) * heads, s], weights[t], row[s * size : (s + 1) * size])
                hi, lo, ties = _cut(scores[start:stop], top_k, guess, force)
            guess = hi
            for s in range(counts[t]):
                a, b = max(start, s * size), min(stop, (s + 1) * size)
                inside = a - s * size
                first = np.int64(blocks[t, s]) * size - origin[t] + inside
                end, left = n, ties
                for h in range(max(1, chosen.shape[0])):
                    source, target = ((t * heads + h) * slots + s) * wide + inside, h * chosen.shape[1]
                    if ties > 0:
                        end, left = emit_ties(
                            scores, at + a, at + b, hi, lo, ties, first, numbers, n, flat, source, kept, target
                        )  # fmt: skip
                    else:
                        end = emit(scores, at + a, at + b, hi, first, numbers, n, flat, source, kept, target)
                n, ties = end, left
                ends[t, s] = n
        listed = out[t]
        listed[:n] = numbers[:n]
        listed[n:] = -1
        for h in range(chosen.shape[0]):
            values[t, h, :n] = chosen[h, :n]


class BestTokens:
    """The best tokens of each query's window, in all blocks or in given ones: one thread's memory for a chunk of them.

    Parameters
    ----------
    keys : KeyBlocks
    rows, heads : int
        Of a chunk, at most.
    width : int
        Candidate blocks of a query, at most.
    signed : bool
        Rank by the products themselves, of one head, instead of by index scores: there is no ReLU. The size of a block
        must be a multiple of 32.
    force : bool
        Choose the first and the last token of a window whatever their scores.

    Attributes
    ----------
    products : BlockProducts
        Of the last chunk.
    ends, lengths : int32 [m, S], [m]
        How many tokens of each query's list stand in its candidate blocks up to each, and in all.
    """

    def __init__(
        self, keys: KeyBlocks, *, rows: int, heads: int, width: int | None = None, signed: bool = False,
        force: bool = False,
    ) -> None:  # fmt: skip
        self.size, self.signed, self.force = keys.size, signed, force
        self.width = len(keys.blocks) if width is None else width
        self.products = BlockProducts(keys, rows=rows, heads=heads, width=self.width)
        slots = self.width * keys.size + 16
        self._all_ends = np.empty((rows, self.width), np.int32)
        self._row, self._numbers = np.empty(slots, np.float32), np.empty(slots, np.int32)
        self._chosen = np.empty((heads, slots), np.float32)

    def find(
        self, q: Tensor, weights: Tensor, ks: Tensor, ke: Tensor, out: Ints, *, blocks: Ints | None = None,
        relative: bool = True, values: Floats | None = None,
    ) -> None:  # fmt: skip
        """Fill ``out`` int32 [m, K] with the best tokens of each query, ascending, -1 at the end.

        Parameters
        ----------
        q, weights : Tensor [m, H, d], [m, H]
        ks, ke : Tensor int64 [m]
        blocks : int32 [m, S], optional
            Candidates, ascending, -1 at the end; those of ks and of ke - 1 are among them.
        relative : bool
            Count tokens from ``ks``.
        values : float32 [m, H, K], optional
            Filled with the products q . k of the chosen tokens.
        """
        first, last = ks.numpy(), ke.numpy()
        candidates = _visible_blocks(first, last, self.size, self.width) if blocks is None else blocks
        counts = (candidates >= 0).sum(1, dtype=np.int32)
        self.ends = self._all_ends[: len(candidates)]
        x = self.products.compute(q, candidates, counts)
        chosen = self._chosen
        if values is None:
            chosen, values = chosen[:0], np.empty((0, 1, 1), np.float32)
        _select()(
            x, candidates, counts, weights.detach().float().contiguous().numpy(), first, last,
            first if relative else np.zeros_like(first), self.size, self.signed, self.force, self._row, self._numbers,
            chosen, out, self.ends, values,
        )  # fmt: skip
        self.lengths = np.where(counts > 0, self.ends[np.arange(len(counts)), counts - 1], np.int32(0))


def _visible_blocks(ks: Longs, ke: Longs, size: int, width: int) -> Ints:
    """All blocks of each window, ascending, -1 at the end: int32 [m, width]."""
    block = ks[:, None] // size + np.arange(width)
    return np.where((block * size < ke[:, None]) & (ke > ks)[:, None], block, -1).astype(np.int32)


def chunk_rows(scores: int) -> int:
    """Queries of a chunk that have ``scores`` scores each."""
    return max(1, min(_ROWS, _SCORES // max(1, scores)))


def in_chunks(work: Tensor, rows: int, make: Callable[[], Callable[[slice], None]]) -> None:
    """Call ``make()(slice)`` for chunks of at most ``rows`` queries, one ``make()`` for each thread.

    ``work`` [M]: that of each query, by which they are shared out. What is found does not depend on the chunks.
    """

    def band(start: int, stop: int) -> None:
        torch.set_num_threads(1)  # counts per thread; undone for the caller by kernels_own_the_threads
        with torch.no_grad():  # also counts per thread
            chunk = make()
            for first in range(start, stop, rows):
                chunk(slice(first, min(first + rows, stop)))

    with kernels_own_the_threads():
        run(band, _bands(work))


def _bands(work: Tensor) -> list[tuple[int, int]]:
    """Split the queries into one piece per thread, of equal work."""
    total = work.cumsum(0)
    pieces = min(thread_count(), work.shape[0])
    goals = total[-1:] * torch.arange(1, pieces) // max(1, pieces)
    edges = [0, *torch.searchsorted(total, goals).tolist(), work.shape[0]]
    return [(start, stop) for start, stop in itertools.pairwise(edges) if start < stop]
