"""HiP's attention over the chosen keys on the CPU: a numba kernel over query blocks. Same result as ``attend``.

The keys of a block are listed once: at the defaults 672 keys for 32 rows.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.nn.functional import pad

from ...jit import kernel
from ...threads import kernels_own_the_threads, run
from ..equations import again_where_not_finite
from ..rows_cpu import HIDDEN, ROOM, multiply, sum_values, weigh
from ..tile_cpu import LANES, items_of, multiplies_pairs
from .attend import attend as attend_plainly
from .attend import dense_rows
from .selection import ROW_TILE, HipSelection, bands
from .settings import Settings, positive_scale

Array = np.ndarray[Any, Any]
_LOG2_E = 1.4426950408889634
_ONE = np.float32(1)


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


@njit(error_model="numpy")
def _hide(scores: Array, keys: Array, alone: Array, shared: int, n: int, row: Array) -> None:
    """Mark what the queries at the positions ``row`` do not see of the keys shared, .., n - 1."""
    for j in range(shared, n):
        for r in range(scores.shape[1]):
            if keys[j] > row[r] or (alone[j - shared] and keys[j] != row[r]):
                scores[j, r] = HIDDEN


def _attend(
    q: Array, k: Array, v: Array, out: Array, starts: Array, count: Array, first: Array, end: Array,
    block_m: int, step: int, span: int, sink: int, window: int, factor: float, begin: int, stop: int,
) -> None:  # fmt: skip
    """Query blocks begin..stop-1 of ``out`` [L, Dv], from ``q`` [L, items], ``k`` [Lk, items], ``v`` [Lk, Dv].

    ``starts`` [nB, width] and ``count`` [nB] are the chosen units of ``span`` keys, ``first`` and ``end`` [nB] the
    blocks' positions. Positions of neighbouring rows differ by ``step``: 1, or 0 where the rows are heads of one query.
    Weights are 2^(factor (q . k)) but for a common factor. Items and values are as in ``rows_cpu``.
    """
    items, value_dim = k.shape[1], v.shape[1]
    rows = (block_m + ROW_TILE - 1) // ROW_TILE * ROW_TILE
    capacity = sink + starts.shape[1] * span + window + block_m + ROOM
    keys, alone = np.empty(capacity, np.int32), np.empty(block_m + ROOM, np.bool_)
    queries, scores = np.empty((items, rows), k.dtype), np.empty((capacity, rows), np.float32)
    result, spare = np.empty((rows, value_dim), np.float32), np.empty((capacity // 2 + 1, rows), np.int32)
    row, top, total = np.empty(rows, np.int64), np.empty(rows, np.float32), np.empty(rows, np.float32)
    for block in range(begin, stop):
        last = end[block]
        n, shared = _list_keys(
            starts[block], count[block], span, sink, max(0, last - window), first[block], last, keys, alone
        )
        for r in range(rows):
            source = q[min(block * block_m + r, len(q) - 1)]
            row[r] = min(first[block] + r * step, last - 1)
            for d in range(items):
                queries[d, r] = source[d]
        multiply(k, keys, n, queries, scores)
        _hide(scores, keys, alone, shared, n, row)
        weigh(scores, n, np.float32(factor), top)
        sum_values(scores, v, keys, n, total, spare, result)
        for r in range(min(block_m, len(q) - block * block_m)):
            share = _ONE / total[r]
            target = out[block * block_m + r]
            for d in range(value_dim):
                target[d] = result[r, d] * share


_REST = (
    "float32[:,::1],int32[:,::1],int64[::1],int64[::1],int64[::1],int64,int64,int64,int64,int64,float64,int64,int64)"
)
_attend_float32 = kernel("void(float32[:,::1],float32[:,::1],float32[:,::1]," + _REST)(_attend)
_attend_pairs = kernel("void(int32[:,::1],int32[:,::1],uint16[:,::1]," + _REST)(_attend)


def attend(
    q: Tensor, k: Tensor, v: Tensor, selection: HipSelection, *, causal: bool, scale: float | None = None,
    settings: Settings,
) -> Tensor:  # fmt: skip
    """As ``attend.attend``, without gradients: [B, Hq, Lq, Dv] in q's dtype.

    Sums are float32; so are products, unless the processor multiplies pairs of bfloat16.
    """
    out = _by_kernel(q, k, v, selection, positive_scale(q, scale))
    plain = functools.partial(attend_plainly, q, k, v, selection, causal=causal, scale=scale, settings=settings)
    return again_where_not_finite(out, plain)


def _by_kernel(q: Tensor, k: Tensor, v: Tensor, selection: HipSelection, scale: float) -> Tensor:
    """``attend`` but for rows that are not finite."""
    layout, settings = selection.layout, selection.layout.settings
    batch, num_heads, len_q, dim = q.shape
    dense, value_dim, heads = layout.num_dense, v.shape[3], selection.starts.shape[1]
    pairs = q.dtype == torch.bfloat16 and multiplies_pairs()
    keys, values = items_of(k, pairs=pairs), v.detach() if pairs else v.detach().float()
    values = pad(values, (0, -value_dim % LANES)) if value_dim % LANES else values.contiguous()  # pad always copies
    # decode: a group's heads are the rows
    queries = items_of(q.reshape(batch, heads, num_heads // heads * len_q, dim), pairs=pairs)
    block_m, step = (selection.group, 0) if len_q == 1 else (layout.block_m, 1)
    out = torch.empty(*queries.shape[:3], values.shape[3])
    values = values.view(torch.uint16) if pairs else values
    group, compiled = heads // k.shape[1], _attend_pairs() if pairs else _attend_float32()
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
