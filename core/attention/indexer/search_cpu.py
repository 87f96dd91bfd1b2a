"""Index scores of chosen key blocks and the best tokens among them: numba kernels for the CPU.

Keys lie in blocks [D, B], so that the inner loop runs along tokens: four queries by four channels in registers, 16
multiply-adds for 8 loads and 4 stores, which one core sustains at the speed of a library matmul. The queries of a chunk
are grouped by block, so that each key block enters the cache once per chunk. The flat search is the same with every
visible block as a candidate.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from ...jit import FASTMATH, kernel
from ...threads import run, thread_count
from ..tokens.top_k_cpu import LARGEST, emit, emit_ties, ranked, threshold

Floats = np.ndarray[Any, np.dtype[np.float32]]
Ints = np.ndarray[Any, np.dtype[np.int32]]
Longs = np.ndarray[Any, np.dtype[np.int64]]
_ZERO, _INF = np.float32(0), np.float32(np.inf)
_COLUMNS = 128
_STRIDE = 528  # between the products of the four queries: constant, so that LLVM sees that they do not overlap
LARGEST_BLOCK = 512
_SCORES = 1 << 23  # scores of a chunk of queries, per thread: 32 MB


@njit(fastmath=FASTMATH, error_model="numpy", inline="always")
def _relu(x: Any) -> Any:
    """max(x, 0) of which NaN stays NaN."""
    return _ZERO if x <= _ZERO else x


@njit(fastmath=FASTMATH, error_model="numpy")
def _dots(q: Floats, t0: Any, t1: Any, t2: Any, t3: Any, h: Any, keys: Floats, dots: Floats) -> None:
    """Products of four queries with the keys [D, columns] into dots[r * _STRIDE :]."""
    dim, columns = keys.shape
    for j in range(columns):
        dots[j] = _ZERO
        dots[j + _STRIDE] = _ZERO
        dots[j + 2 * _STRIDE] = _ZERO
        dots[j + 3 * _STRIDE] = _ZERO
    for d in range(0, dim, 4):
        q00, q01, q02, q03 = q[t0, h, d], q[t0, h, d + 1], q[t0, h, d + 2], q[t0, h, d + 3]
        q10, q11, q12, q13 = q[t1, h, d], q[t1, h, d + 1], q[t1, h, d + 2], q[t1, h, d + 3]
        q20, q21, q22, q23 = q[t2, h, d], q[t2, h, d + 1], q[t2, h, d + 2], q[t2, h, d + 3]
        q30, q31, q32, q33 = q[t3, h, d], q[t3, h, d + 1], q[t3, h, d + 2], q[t3, h, d + 3]
        k0, k1, k2, k3 = keys[d], keys[d + 1], keys[d + 2], keys[d + 3]
        if columns == _COLUMNS:  # the same loop with a constant length: 15 % faster
            for j in range(_COLUMNS):
                x0, x1, x2, x3 = k0[j], k1[j], k2[j], k3[j]
                dots[j] += q00 * x0 + q01 * x1 + q02 * x2 + q03 * x3
                dots[j + _STRIDE] += q10 * x0 + q11 * x1 + q12 * x2 + q13 * x3
                dots[j + 2 * _STRIDE] += q20 * x0 + q21 * x1 + q22 * x2 + q23 * x3
                dots[j + 3 * _STRIDE] += q30 * x0 + q31 * x1 + q32 * x2 + q33 * x3
        else:
            for j in range(columns):
                x0, x1, x2, x3 = k0[j], k1[j], k2[j], k3[j]
                dots[j] += q00 * x0 + q01 * x1 + q02 * x2 + q03 * x3
                dots[j + _STRIDE] += q10 * x0 + q11 * x1 + q12 * x2 + q13 * x3
                dots[j + 2 * _STRIDE] += q20 * x0 + q21 * x1 + q22 * x2 + q23 * x3
                dots[j + 3 * _STRIDE] += q30 * x0 + q31 * x1 + q32 * x2 + q33 * x3


@kernel(
    "void(float32[:,:,::1],float32[:,::1],float32[:,:,:,::1],int32[:,::1],int32[::1],float32[:,::1],int64[::1],"
    "int32[:,::1],float32[::1])"
)
def _score(
    q: Floats, weights: Floats, keys: Floats, blocks: Ints, counts: Ints, scores: Floats, starts: Longs, order: Ints,
    dots: Floats,
) -> None:  # fmt: skip
    """Scores [m, S * B] of each query's blocks[t, :counts[t]]; ``starts`` [nb + 1], ``order`` [2, m * S], scratch."""
    num_blocks, parts, _, columns = keys.shape
    starts[:] = 0
    for t in range(q.shape[0]):
        for s in range(counts[t]):
            starts[blocks[t, s] + 1] += 1
    for b in range(num_blocks):
        starts[b + 1] += starts[b]
    for t in range(q.shape[0]):
        for s in range(counts[t]):
            b = blocks[t, s]
            order[0, starts[b]] = t
            order[1, starts[b]] = s
            starts[b] += 1  # afterwards starts[b] is where block b's queries end
    first = np.int64(0)
    for b in range(num_blocks):
        last = starts[b]
        for part in range(parts):
            for i in range(first, last, 4):
                t0, t1 = order[0, i], order[0, min(i + 1, last - 1)]
                t2, t3 = order[0, min(i + 2, last - 1)], order[0, min(i + 3, last - 1)]
                for h in range(q.shape[1]):
                    _dots(q, np.uint64(t0), np.uint64(t1), np.uint64(t2), np.uint64(t3), h, keys[b, part], dots)
                    for r in range(min(4, last - i)):
                        t = order[0, i + r]
                        at = (np.int64(order[1, i + r]) * parts + part) * columns
                        weight = weights[t, h]
                        row = scores[t, at : at + columns]
                        dot = dots[r * _STRIDE : r * _STRIDE + columns]
                        if h == 0:
                            for j in range(columns):
                                row[j] = weight * _relu(dot[j])
                        else:
                            for j in range(columns):
                                row[j] += weight * _relu(dot[j])
        first = last


@kernel(
    "void(float32[:,::1],int32[:,::1],int32[::1],int64[::1],int64[::1],int64[::1],int64,int64,boolean,int32[:,::1],int32[::1],"
    "float32[:,::1])"
)
def _select(
    scores: Floats, blocks: Ints, counts: Ints, ks: Longs, ke: Longs, origin: Longs, size: int, top_k: int,
    force: bool, out: Ints, scratch: Ints, values: Floats,
) -> None:  # fmt: skip
    """The best ``top_k`` tokens in [ks, ke) of each query's blocks, ascending, -1 at the end, into ``out`` [m, K].

    A query's blocks ascend and hold ks and ke - 1, so its visible scores are one piece. ``force``: the first and the
    last visible one are chosen whatever their scores. ``origin`` [m] is subtracted. ``scratch`` [S * B + 1].
    ``values`` [m, K]: the scores of the chosen, if it has any rows.
    """
    guess = _ZERO
    for t in range(scores.shape[0]):
        n = 0
        if counts[t] > 0:
            row = scores[t]
            start = ks[t] - np.int64(blocks[t, 0]) * size
            stop = (counts[t] - 1) * size + ke[t] - np.int64(blocks[t, counts[t] - 1]) * size
            lo = hi = -_INF
            ties = 0
            ranked(row[start:stop], LARGEST if force else _INF)  # below what is forced
            if stop - start > top_k:
                if force:
                    row[start] = np.float32(np.inf)
                    row[stop - 1] = np.float32(np.inf)
                hi, lo, ties = threshold(row[start:stop], top_k, guess)
                guess = hi
            for s in range(counts[t]):
                base = np.int64(blocks[t, s]) * size - origin[t]
                a, b = max(start, s * size), min(stop, (s + 1) * size)
                first = base + a - s * size
                if ties > 0:
                    more, ties = emit_ties(row[a:b], hi, lo, ties, first, scratch[n:])
                else:
                    more = emit(row[a:b], hi, first, scratch[n:])
                if values.shape[0] > 0:
                    value = values[t]
                    for i in range(n, n + more):
                        value[i] = row[a + scratch[i] - first]
                n += more
        chosen = out[t]
        chosen[:n] = scratch[:n]
        chosen[n:] = -1


class KeyBlocks:
    """Keys [T, d] float32 laid out for the kernels: [ceil(T / B), parts, d', columns], zeros behind the end.

    d' is a multiple of 4; a block whose size is a multiple of 128 comes in parts of 128 columns.
    """

    def __init__(self, k: Tensor, block_size: int) -> None:
        k = k.detach()
        num_tokens, dim = k.shape
        self.size = block_size
        columns = block_size if block_size % _COLUMNS else _COLUMNS
        num_blocks, whole = -(-num_tokens // block_size), num_tokens // columns
        blocks = torch.zeros(num_blocks * (block_size // columns), -(-dim // 4) * 4, columns)
        blocks[:whole, :dim] = k[: whole * columns].reshape(whole, columns, dim).mT
        if whole * columns < num_tokens:
            blocks[whole, :dim, : num_tokens - whole * columns] = k[whole * columns :].T
        self.blocks = blocks.view(num_blocks, -1, *blocks.shape[1:]).numpy() if num_blocks else blocks[:, None].numpy()


def best_tokens(
    q: Tensor, weights: Tensor, keys: KeyBlocks, ks: Tensor, ke: Tensor, *, out: Tensor, blocks: Tensor | None = None,
    relative: bool = True, force: bool = False, values: Tensor | None = None,
) -> None:  # fmt: skip
    """The best tokens of each query's window, in all blocks or in the given ones.

    Parameters
    ----------
    q, weights : Tensor float32 [M, H, d], [M, H]
    keys : KeyBlocks
    ks, ke : Tensor int64 [M]
    out : Tensor int32 [M, K]
        Filled with the K best tokens, ascending, -1 at the end.
    blocks : Tensor int32 [M, m], optional
        Candidates, ascending, -1 at the end; those of ks and of ke - 1 are among them.
    relative : bool
        Count tokens from ``ks``.
    force : bool
        Choose the first and the last token of a window whatever their scores.

    values : Tensor float32 [M, K], optional
        Filled with the scores of the chosen tokens.
    """
    dim = keys.blocks.shape[2]
    # a choice has no gradient, whatever its operands want
    queries = torch.nn.functional.pad(q.detach(), (0, dim - q.shape[2])).contiguous().numpy()
    head_weights = weights.detach().contiguous().numpy()
    given = None if blocks is None else blocks.numpy()
    origin = (ks if relative else torch.zeros_like(ks)).numpy()
    top_k = out.shape[1]
    tokens = out.numpy()
    chosen = np.empty((0, top_k), dtype=np.float32) if values is None else values.numpy()
    width = keys.blocks.shape[0] if blocks is None else blocks.shape[1]
    step = max(1, min(512, _SCORES // max(1, width * keys.size)))

    def band(start: int, stop: int) -> None:
        """One thread's queries, with scratch of its own."""
        most = min(step, stop - start)
        scores = torch.empty(most, width * keys.size).numpy()
        order = np.empty((2, most * width), dtype=np.int32)
        starts = np.empty(keys.blocks.shape[0] + 1, dtype=np.int64)
        dots = torch.empty(4 * _STRIDE).numpy()
        scratch = np.empty(width * keys.size + 1, dtype=np.int32)
        for lo in range(start, stop, step):
            rows = slice(lo, min(lo + step, stop))
            first, last = ks[rows].numpy(), ke[rows].numpy()
            candidates = _visible_blocks(first, last, keys.size, width) if given is None else given[rows]
            counts = (candidates >= 0).sum(1, dtype=np.int32)
            piece = scores[: rows.stop - lo]
            _score()(queries[rows], head_weights[rows], keys.blocks, candidates, counts, piece, starts, order, dots)
            _select()(
                piece, candidates, counts, first, last, origin[rows], keys.size, top_k, force, tokens[rows], scratch,
                chosen[rows],
            )  # fmt: skip

    if q.shape[0]:
        run(band, _bands((ke - ks).clamp(0, width * keys.size)))


def _visible_blocks(ks: Longs, ke: Longs, size: int, width: int) -> Ints:
    """All blocks of each window, ascending, -1 at the end: int32 [m, width]."""
    block = ks[:, None] // size + np.arange(width)
    return np.where((block * size < ke[:, None]) & (ke > ks)[:, None], block, -1).astype(np.int32)


def _bands(work: Tensor) -> list[tuple[int, int]]:
    """Split the queries into one piece per thread, of equal work."""
    total = work.cumsum(0)
    pieces = min(thread_count(), work.shape[0])
    goals = total[-1] * torch.arange(1, pieces) // pieces
    edges = [0, *torch.searchsorted(total, goals).tolist(), work.shape[0]]
    return list(itertools.pairwise(edges))
