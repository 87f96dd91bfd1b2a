"""Attention over token lists on the CPU: numba kernels.

The rows of a chunk walk over the keys together, a tile of keys at a time, so that the keys that its lists share are
read from memory once and from the second-level cache afterwards. Scores of a chunk are kept between the two walks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit, types
from numba.extending import overload
from torch import Tensor
from torch.nn.functional import pad

from ...jit import FASTMATH, exp_negative, kernel
from ...threads import bands, run
from ..tile_cpu import LANES, one_by_16, one_by_16_of_bfloat16, one_by_128, one_by_128_of_bfloat16

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
def softmax(row: Floats) -> None:
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


def add_values(weights: int, index: int, count: int, v: Any, out: int) -> None:
    """Row of Dv floats at the address ``out`` += sum of ``count`` weights times the values v [Lk, Dv] at ``index``.

    ``v`` is float32, or bfloat16 as int16. Dv is a multiple of 16, ``count`` at least 1.
    """


@overload(add_values, strict=False)
def _add_values_of(weights: int, index: int, count: int, v: Any, out: int) -> Any:
    narrow = v.dtype == types.int16
    many, few = (one_by_128_of_bfloat16, one_by_16_of_bfloat16) if narrow else (one_by_128, one_by_16)

    def add(weights: int, index: int, count: int, v: Any, out: int) -> None:
        width, d = v.shape[1], 0
        while d + 128 <= width:
            many((weights,), 1, v.ctypes.data + v.itemsize * d, width, index, count, out + 4 * d, width)
            d += 128
        while d < width:
            few((weights,), 1, v.ctypes.data + v.itemsize * d, width, index, count, out + 4 * d, width)
            d += 16

    return add


@kernel(
    "void(float32[:,::1],float32[:,::1],float32[:,::1],int32[:,::1],float32,int64,float32[:,::1],int32[:,::1],"
    "float32[:,::1])"
)
def _attend(
    q: Floats, k: Floats, v: Floats, index: Ints, scale: float, tile: int, prob: Floats, ends: Ints, out: Floats
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
            _dots(q[t], k, chosen[first:stop], scale, prob[t, first:stop])
    for t in range(rows):
        out[t] = _ZERO
        if ends[t, tiles - 1] > 0:
            softmax(prob[t, : ends[t, tiles - 1]])
    for n in range(tiles):
        for t in range(rows):
            first = np.int64(ends[t, n - 1]) if n > 0 else np.int64(0)
            if ends[t, n] > first:
                place = 4 * (t * width + first)
                target = out.ctypes.data + 4 * t * out.shape[1]
                add_values(prob.ctypes.data + place, index.ctypes.data + place, ends[t, n] - first, v, target)


def _attend_head(q: Tensor, k: Tensor, v: Tensor, index: Tensor, scale: float) -> Tensor:
    """out [m, Dv] for one head: q [m, D], k [Lk, D], v [Lk, Dv] float32 contiguous, index int32 [m, K]; Dv = 16 n."""
    out = torch.empty(q.shape[0], v.shape[1])
    tile = min(max(_KEYS * k.shape[0] // max(1, index.shape[1]), 512), 2048)
    tiles = -(-k.shape[0] // tile)
    arrays = [t.numpy() for t in (q, k, v, index, out)]

    def band(start: int, stop: int) -> None:
        """One thread's queries, with scratch of its own."""
        most = min(_ROWS, stop - start)
        prob = np.empty((most, index.shape[1]), dtype=np.float32)
        ends = np.empty((most, tiles), dtype=np.int32)
        for lo in range(start, stop, _ROWS):
            rows = slice(lo, min(lo + _ROWS, stop))
            m = rows.stop - lo
            _attend()(
                arrays[0][rows], arrays[1], arrays[2], arrays[3][rows], np.float32(scale), tile, prob[:m], ends[:m],
                arrays[4][rows],
            )  # fmt: skip

    if q.shape[0]:
        run(band, bands(q.shape[0]))
    return out


def attend_rows(q: Tensor, k: Tensor, v: Tensor, index: Tensor, scale: float) -> Tensor:
    """As ``attend.attend_rows``, head by head."""
    group, out = q.shape[1] // k.shape[1], q.new_empty(*q.shape[:3], v.shape[-1])
    for b in range(k.shape[0]):
        for kv in range(k.shape[1]):
            keys, values, listed = _float32(k[b, kv], v[b, kv], index[b, kv])
            for h in range(kv * group, (kv + 1) * group):
                part = _attend_head(q[b, h].float().contiguous(), keys, values, listed, scale)
                out[b, h] = part[:, : v.shape[-1]]
    return out


def _float32(k: Tensor, v: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Keys and values [n, D], [n, Dv'] as the kernel wants them, and the lists [m, K] of their numbers.

    Of other dtypes, short lists take along what they name: a step of decoding must not convert the whole cache.
    """
    if k.dtype != torch.float32 and index.numel() < k.shape[0]:
        named = index.clamp_min(0).flatten()
        k, v = k.index_select(0, named), v.index_select(0, named)
        order = torch.arange(index.numel(), dtype=torch.int32).view(index.shape)
        index = order.masked_fill(index < 0, -1)
    return k.float().contiguous(), padded(v.float()), index


def padded(v: Tensor) -> Tensor:
    """Values [Lk, Dv] with zeros up to a multiple of 16, contiguous."""
    width = -v.shape[1] % LANES
    return pad(v, (0, width)) if width else v.contiguous()
