"""HiP's attention over the chosen keys on the CPU: a numba kernel over query blocks. Same result as ``attend``.

The keys of a block are listed once; their scores for all its rows (at the defaults 672 x 32 numbers) stay in the second
cache, so softmax needs no running maximum.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import njit
from torch import Tensor
from torch.nn.functional import pad

from ...jit import FASTMATH, exp2_negative, kernel
from ...threads import kernels_own_the_threads, run
from ..equations import again_where_not_finite
from ..tile_cpu import LANES, eight_by_16, eight_by_32, four_by_16, four_by_64, prefetch
from .attend import attend as attend_plainly
from .attend import dense_rows
from .selection import ROW_TILE, HipSelection, bands
from .settings import Settings, positive_scale

Array = np.ndarray[Any, Any]
_LOG2_E = 1.4426950408889634
_ZERO, _ONE = np.float32(0), np.float32(1)
_HIDDEN = np.float32(-np.inf)
_KEYS = 32  # values of so many keys at a time: 16 KB, half of a first-level cache


@njit(error_model="numpy")
def _list_keys(
    chosen: Array, count: int, span: int, sink: int, window: int, first: int, end: int, keys: Array, alone: Array
) -> tuple[int, int]:
    """A block's keys, ascending and each once: how many, and how many of them every query may see.

    The last ones, from position ``first``, are all there: ``alone`` marks those that only the query at that position
    may see, because they were neither chosen nor are in the window or the sink.
    """
    n = 0
    for key in range(min(sink, end)):
        keys[n] = key
        n += 1
    local = min(window, first)
    for i in range(count):
        for key in range(max(chosen[i], sink), min(chosen[i] + span, local)):
            keys[n] = key
            n += 1
    for key in range(max(local, sink), end):
        keys[n] = key
        n += 1
    open_to_all = max(0, n - (end - first))
    for i in range(open_to_all, n):
        alone[i - open_to_all] = sink <= keys[i] < window
    for i in range(count):
        for key in range(max(chosen[i], first), min(chosen[i] + span, window)):
            alone[key - first] = False
    return n, open_to_all


@njit(fastmath=FASTMATH, error_model="numpy")
def _softmax(
    scores: Array, keys: Array, alone: Array, n: int, shared: int, row: Array, top: Array, total: Array
) -> None:
    """Weights 2^(score - largest) of the first n rows of ``scores`` [keys, queries], and their sums."""
    rows = scores.shape[1]
    for tile in range(0, rows, ROW_TILE):
        for j in range(shared, n):
            for r in range(tile, tile + ROW_TILE):
                if keys[j] > row[r] or (alone[j - shared] and keys[j] != row[r]):
                    scores[j, r] = _HIDDEN
        for r in range(ROW_TILE):
            top[r] = _HIDDEN
            total[tile + r] = _ZERO
        for j in range(n):
            line = scores[j, tile : tile + ROW_TILE]
            for r in range(ROW_TILE):
                top[r] = max(top[r], line[r])
        sums = total[tile : tile + ROW_TILE]
        for j in range(n):
            line = scores[j, tile : tile + ROW_TILE]
            for r in range(ROW_TILE):
                line[r] = exp2_negative(line[r] - top[r])
        for j in range(shared, n):
            for r in range(tile, tile + ROW_TILE):
                if keys[j] > row[r] or (alone[j - shared] and keys[j] != row[r]):
                    scores[j, r] = _ZERO
        for j in range(n):
            line = scores[j, tile : tile + ROW_TILE]
            for r in range(ROW_TILE):
                sums[r] += line[r]


@kernel(
    "void(float32[:,::1],float32[:,::1],float32[:,::1],float32[:,::1],int32[:,::1],int64[::1],int64[::1],int64[::1],"
    "int64,int64,int64,int64,int64,float64,int64,int64)"
)
def _attend(
    q: Array, k: Array, v: Array, out: Array, starts: Array, count: Array, first: Array, end: Array,
    block_m: int, step: int, span: int, sink: int, window: int, scale: float, begin: int, stop: int,
) -> None:  # fmt: skip
    """Query blocks begin..stop-1 of ``out`` [L, Dv], from ``q`` [L, D], ``k`` [Lk, D], ``v`` [Lk, Dv].

    ``starts`` [nB, width] and ``count`` [nB] are the chosen units of ``span`` keys, ``first`` and ``end`` [nB] the
    blocks' positions. Positions of neighbouring rows differ by ``step``: 1, or 0 where the rows are heads of one query.
    """
    dim, value_dim = k.shape[1], v.shape[1]
    rows = (block_m + ROW_TILE - 1) // ROW_TILE * ROW_TILE
    capacity = sink + starts.shape[1] * span + window + block_m + 8
    keys, alone = np.empty(capacity, np.int32), np.empty(block_m + 8, np.bool_)
    queries, scores = np.empty((dim, rows), np.float32), np.empty((capacity, rows), np.float32)
    result = np.empty((rows, value_dim), np.float32)
    row, top, total = np.empty(rows, np.int64), np.empty(ROW_TILE, np.float32), np.empty(rows, np.float32)
    a, b, c, pitch = k.ctypes.data, queries.ctypes.data, scores.ctypes.data, 4 * dim
    factor = np.float32(scale)
    for block in range(begin, stop):
        last = end[block]
        n, shared = _list_keys(
            starts[block], count[block], span, sink, max(0, last - window), first[block], last, keys, alone
        )
        for i in range(n, n + 7):
            keys[i] = keys[n - 1]
        for r in range(rows):
            source = q[min(block * block_m + r, len(q) - 1)]
            row[r] = min(first[block] + r * step, last - 1)
            for d in range(dim):
                queries[d, r] = source[d] * factor
        for i in range(0, n, 8):
            scores[i : i + 8] = 0
            for j in range(i + 8, min(i + 16, n)):
                for line in range(0, pitch, 64):
                    prefetch(a + keys[j] * pitch + line)
            addresses = (
                a + keys[i] * pitch, a + keys[i + 1] * pitch, a + keys[i + 2] * pitch, a + keys[i + 3] * pitch,
                a + keys[i + 4] * pitch, a + keys[i + 5] * pitch, a + keys[i + 6] * pitch, a + keys[i + 7] * pitch,
            )  # fmt: skip
            tile = 0
            while tile + 2 * ROW_TILE <= rows:
                eight_by_32(addresses, 1, b + 4 * tile, rows, 0, dim, c + 4 * (i * rows + tile), rows)
                tile += 2 * ROW_TILE
            if tile < rows:
                eight_by_16(addresses, 1, b + 4 * tile, rows, 0, dim, c + 4 * (i * rows + tile), rows)
        _softmax(scores, keys, alone, n, shared, row, top, total)
        result[:] = 0
        for i in range(0, n, _KEYS):
            some, index = min(_KEYS, n - i), keys.ctypes.data + 4 * i
            for r in range(0, rows, 4):
                ahead = i + _KEYS + r * _KEYS // rows  # a share of the next values with every four rows
                for j in range(ahead, min(ahead + 4 * _KEYS // rows, n)):
                    for line in range(0, 4 * value_dim, 64):
                        prefetch(v.ctypes.data + 4 * keys[j] * value_dim + line)
                weight = c + 4 * (i * rows + r)
                weights = (weight, weight + 4, weight + 8, weight + 12)
                d = 0
                while d + 64 <= value_dim:
                    target = result.ctypes.data + 4 * (r * value_dim + d)
                    four_by_64(weights, rows, v.ctypes.data + 4 * d, value_dim, index, some, target, value_dim)
                    d += 64
                while d < value_dim:
                    target = result.ctypes.data + 4 * (r * value_dim + d)
                    four_by_16(weights, rows, v.ctypes.data + 4 * d, value_dim, index, some, target, value_dim)
                    d += 16
        for r in range(min(block_m, len(q) - block * block_m)):
            share = _ONE / total[r]
            target_row = out[block * block_m + r]
            for d in range(value_dim):
                target_row[d] = result[r, d] * share


def attend(
    q: Tensor, k: Tensor, v: Tensor, selection: HipSelection, *, causal: bool, scale: float | None = None,
    settings: Settings,
) -> Tensor:  # fmt: skip
    """As ``attend.attend``, computed in float32 and without gradients: [B, Hq, Lq, Dv] in q's dtype."""
    out = _by_kernel(q, k, v, selection, positive_scale(q, scale))
    plain = functools.partial(attend_plainly, q, k, v, selection, causal=causal, scale=scale, settings=settings)
    return again_where_not_finite(out, plain)


def _by_kernel(q: Tensor, k: Tensor, v: Tensor, selection: HipSelection, scale: float) -> Tensor:
    """``attend`` but for rows that are not finite."""
    layout, settings = selection.layout, selection.layout.settings
    batch, num_heads, len_q, dim = q.shape
    dense, value_dim, heads = layout.num_dense, v.shape[3], selection.starts.shape[1]
    keys, values = k.float().contiguous(), v.float()
    values = pad(values, (0, -value_dim % LANES)) if value_dim % LANES else values.contiguous()  # pad always copies
    queries = (
        q.float().reshape(batch, heads, num_heads // heads * len_q, dim).contiguous()
    )  # decode: a group's heads are the rows
    block_m, step = (selection.group, 0) if len_q == 1 else (layout.block_m, 1)
    out = queries.new_empty(*queries.shape[:3], values.shape[3])
    group, compiled = heads // k.shape[1], _attend()
    plan = (
        *(x.numpy() for x in (selection.count, layout.first, layout.end)), block_m, step, settings.span,
        settings.sink, settings.sliding_window, scale * _LOG2_E,
    )  # fmt: skip
    with kernels_own_the_threads():
        run(
            compiled,
            [
                (queries[b, h].numpy(), keys[b, h // group].numpy(), values[b, h // group].numpy(), out[b, h].numpy(),
                 selection.starts[b, h].numpy(), *plan, dense + first, dense + stop)
                for b in range(batch) for h in range(heads) for first, stop in bands(layout.num_blocks - dense)
            ],
        )  # fmt: skip
    out = out.view(batch, num_heads, len_q, values.shape[3])[..., :value_dim].to(q.dtype)
    if dense:
        out[:, :, : dense * layout.block_m] = dense_rows(q, k, v, selection, scale=scale)
    return out
