"""Attention over token lists on the CPU: numba kernels.

The rows of a chunk walk over the keys together, a tile of keys at a time, so that the keys that its lists share are
read from memory once and from the second-level cache afterwards. Scores of a chunk are kept between the two walks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from ...jit import FASTMATH, exp_negative, kernel
from ...threads import bands, run

Floats = np.ndarray[Any, np.dtype[np.float32]]
Ints = np.ndarray[Any, np.dtype[np.int32]]
_ZERO = np.float32(0)
_ROWS = 1024  # queries of a chunk
_KEYS = 32  # keys of a query in a tile, on average: fewer, and visiting a row costs more than its keys


@njit(fastmath=FASTMATH, error_model="numpy")
def _dots(query: Floats, k: Floats, chosen: Ints, scale: Any, row: Floats) -> None:
    """row[i] = scale * query . k[chosen[i]], four keys at a time."""
    four = chosen.size // 4 * 4
    for i in range(0, four, 4):
        k0, k1 = k[np.uint64(chosen[i])], k[np.uint64(chosen[i + 1])]
        k2, k3 = k[np.uint64(chosen[i + 2])], k[np.uint64(chosen[i + 3])]
        a0 = a1 = a2 = a3 = _ZERO
        for d in range(query.size):
            x = query[d]
            a0 += x * k0[d]
            a1 += x * k1[d]
            a2 += x * k2[d]
            a3 += x * k3[d]
        row[i], row[i + 1], row[i + 2], row[i + 3] = a0 * scale, a1 * scale, a2 * scale, a3 * scale
    for i in range(four, chosen.size):
        k0 = k[np.uint64(chosen[i])]
        a0 = _ZERO
        for d in range(query.size):
            a0 += query[d] * k0[d]
        row[i] = a0 * scale


@njit(fastmath=FASTMATH, error_model="numpy")
def _complete(query: Floats, k: Floats, chosen: Ints, scale: Any, row: Floats) -> None:
    """As ``_dots``, where row holds relu(query . k) already: only what the ReLU hid is computed."""
    for i in range(chosen.size):
        if row[i] > _ZERO:
            row[i] *= scale
        else:
            _dots(query, k, chosen[i : i + 1], scale, row[i : i + 1])


@njit(fastmath=FASTMATH, error_model="numpy")
def _softmax(row: Floats) -> None:
    """In place."""
    largest = np.float32(-np.inf)
    for i in range(row.size):
        largest = max(largest, row[i])
    total = _ZERO
    for i in range(row.size):
        e = exp_negative(row[i] - largest)
        row[i] = e
        total += e
    inverse = np.float32(1) / total
    for i in range(row.size):
        row[i] *= inverse


@njit(fastmath=FASTMATH, error_model="numpy")
def _add(row: Floats, v: Floats, chosen: Ints, o: Floats) -> None:
    """o += sum_i row[i] v[chosen[i]], eight values at a time: they share one load and one store of o."""
    eight = chosen.size // 8 * 8
    for i in range(0, eight, 8):
        v0, v1 = v[np.uint64(chosen[i])], v[np.uint64(chosen[i + 1])]
        v2, v3 = v[np.uint64(chosen[i + 2])], v[np.uint64(chosen[i + 3])]
        v4, v5 = v[np.uint64(chosen[i + 4])], v[np.uint64(chosen[i + 5])]
        v6, v7 = v[np.uint64(chosen[i + 6])], v[np.uint64(chosen[i + 7])]
        p0, p1, p2, p3 = row[i], row[i + 1], row[i + 2], row[i + 3]
        p4, p5, p6, p7 = row[i + 4], row[i + 5], row[i + 6], row[i + 7]
        for d in range(o.size):
            low = p0 * v0[d] + p1 * v1[d] + p2 * v2[d] + p3 * v3[d]
            o[d] += low + (p4 * v4[d] + p5 * v5[d] + p6 * v6[d] + p7 * v7[d])
    for i in range(eight, chosen.size):
        v0, p0 = v[np.uint64(chosen[i])], row[i]
        for d in range(o.size):
            o[d] += p0 * v0[d]


@kernel(
    "void(float32[:,::1],float32[:,::1],float32[:,::1],int32[:,::1],float32,int64,boolean,float32[:,::1],int32[:,::1],"
    "float32[:,::1])"
)
def _attend(
    q: Floats,
    k: Floats,
    v: Floats,
    index: Ints,
    scale: float,
    tile: int,
    known: bool,
    prob: Floats,
    ends: Ints,
    out: Floats,
) -> None:
    """out [m, Dv] for q [m, D] and lists [m, K] that ascend, -1 at the end; scratch prob [m, K], ends [m, tiles]."""
    rows, width = index.shape
    tiles = ends.shape[1]
    for n in range(tiles):
        last = (n + 1) * tile
        for t in range(rows):
            chosen = index[t]
            first = ends[t, n - 1] if n > 0 else 0
            stop = first
            while stop < width and 0 <= chosen[stop] < last:
                stop += 1
            ends[t, n] = stop
            if known:
                _complete(q[t], k, chosen[first:stop], scale, prob[t, first:stop])
            else:
                _dots(q[t], k, chosen[first:stop], scale, prob[t, first:stop])
    for t in range(rows):
        out[t] = _ZERO
        if ends[t, tiles - 1] > 0:
            _softmax(prob[t, : ends[t, tiles - 1]])
    for n in range(tiles):
        for t in range(rows):
            first = ends[t, n - 1] if n > 0 else 0
            _add(prob[t, first : ends[t, n]], v, index[t, first : ends[t, n]], out[t])


def attend(q: Tensor, k: Tensor, v: Tensor, index: Tensor, scale: float, known: Tensor | None = None) -> Tensor:
    """out [m, Dv] for one head: q [m, D], k [Lk, D], v [Lk, Dv] float32 contiguous, index int32 [m, K].

    ``known`` float32 [m, K]: relu(q . k) of the keys in the lists; it is overwritten.
    """
    out = torch.empty(q.shape[0], v.shape[1])
    tile = min(max(_KEYS * k.shape[0] // max(1, index.shape[1]), 512), 2048)
    tiles = -(-k.shape[0] // tile)
    arrays = [t.numpy() for t in (q, k, v, index, out)]

    def band(start: int, stop: int) -> None:
        """One thread's queries, with scratch of its own."""
        most = min(_ROWS, stop - start)
        prob = np.empty((most if known is None else 0, index.shape[1]), dtype=np.float32)
        ends = np.empty((most, tiles), dtype=np.int32)
        for lo in range(start, stop, _ROWS):
            rows = slice(lo, min(lo + _ROWS, stop))
            m = rows.stop - lo
            _attend()(
                arrays[0][rows], arrays[1], arrays[2], arrays[3][rows], np.float32(scale), tile, known is not None,
                prob[:m] if known is None else known[rows].numpy(), ends[:m], arrays[4][rows],
            )  # fmt: skip

    if q.shape[0]:
        run(band, bands(q.shape[0]))
    return out


def attend_rows(
    q: Tensor, k: Tensor, v: Tensor, index: Tensor, scale: float, known: Tensor | None = None
) -> Tensor:  # fmt: skip
    """As ``attend.attend_rows``, head by head."""
    out = q.new_empty(*q.shape[:3], v.shape[-1])
    for b in range(k.shape[0]):
        for h in range(q.shape[1]):
            kv = h * k.shape[1] // q.shape[1]
            keys, values = k[b, kv].float().contiguous(), v[b, kv].float().contiguous()
            out[b, h] = attend(q[b, h].float().contiguous(), keys, values, index[b, kv], scale, known)
    return out
