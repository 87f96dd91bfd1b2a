"""Superlinear attention, steps 5 and 6, fast: spans that lie together become one matrix product.

A span is a vector times a matrix, which the memory bounds. But about num_spans L spans lie on L keys, so that spans
sorted by where they end come in groups whose union is hardly longer than one of them: a group's queries are the rows of
two matrix products over the keys of the union. The window of a query is a span as well, computed once and merged into
the softmax of each of its spans at the end.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from ...jit import exp2_negative, kernel
from ...threads import bands, kernels_own_the_threads, run, thread_count
from ..rows_cpu import HIDDEN, ROOM, multiply, sum_values, weigh
from ..tile_cpu import LANES, items_of, multiplies_pairs, prefetch

if TYPE_CHECKING:
    from .comb import Spans

Array = np.ndarray[Any, Any]
_BUCKET = 64  # keys: spans that end in the same bucket may form a group
ROWS = 64  # spans of a group
_AHEAD = 4  # queries that are asked for before their turn
_ZERO = np.float32(0)


class SpanPlan(NamedTuple):
    """The spans of one head in the order of their groups.

    ``row`` int64 [N]: query of a span; ``place`` int32 [Lq, k + 1]: where a query's spans, the window last, are in that
    order, -1 for none; ``start``, ``stop`` int32 [N]; ``edges`` int64 [G, 4]: first and last span, first and last key
    of a group, last exclusive.
    """

    row: Array
    place: Array
    start: Array
    stop: Array
    edges: Array


def groups(start: Array, stop: Array, window_start: Array, len_k: int) -> SpanPlan:
    """start, stop int32 [Lq, k] (stop exclusive), window_start int32 [Lq] -> the plan."""
    len_q, count = start.shape
    here = np.arange(len_k - len_q, len_k, dtype=np.int32)
    flat = np.flatnonzero(stop.ravel() > start.ravel())  # by query, so that lengths are in order too
    bucket = (stop.ravel()[flat] - 1) // _BUCKET
    if len_k <= _BUCKET * 65536:
        bucket = bucket.astype(np.uint16)  # which numpy sorts by radix
    order = flat[np.argsort(bucket, kind="stable")]
    near = np.flatnonzero(here >= window_start)
    row = np.concatenate([order // count, near])
    first = np.concatenate([start.ravel()[order], window_start[near]])
    last = np.concatenate([stop.ravel()[order], here[near] + 1])
    place = np.full((len_q, count + 1), -1, dtype=np.int32)
    place.ravel()[order // count * (count + 1) + order % count] = np.arange(len(order), dtype=np.int32)
    place[near, count] = np.arange(len(order), len(row), dtype=np.int32)
    home = (last - 1) // _BUCKET
    begins = np.flatnonzero(np.diff(home, prepend=-1))  # where a bucket begins
    begins = np.union1d(begins, [len(order)]) if len(near) else begins
    sizes = np.diff(begins, append=len(row))
    pieces = -(-sizes // ROWS)
    nth = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    lo = np.repeat(begins, pieces) + nth * ROWS
    hi = np.minimum(lo + ROWS, np.repeat(begins + sizes, pieces))
    if len(lo):
        edges = np.stack([lo, hi, np.minimum.reduceat(first, lo), np.maximum.reduceat(last, lo)], 1)
    else:
        edges = np.zeros((0, 4), dtype=np.int64)
    return SpanPlan(row, place, first, last, edges.astype(np.int64))


def _some_groups(
    q: Array, k: Array, v: Array, row: Array, start: Array, stop: Array, edges: Array, factor: float, top: Array,
    total: Array, partial: Array,
) -> None:  # fmt: skip
    """Some groups of a head, the rows of ``edges``, each span by itself: into ``top``, ``total`` [N], ``partial``.

    ``q`` [Lq, items], ``k`` [Lk, items] and ``v`` [Lk, Dv] are as in ``rows_cpu``, ``row``, ``start``, ``stop`` and
    ``edges`` as in ``SpanPlan``. The weight of a key is 2^(factor (q . k) - top).
    """
    items, dim = k.shape[1], v.shape[1]
    widest = 0
    for group in range(len(edges)):
        widest = max(widest, edges[group, 3] - edges[group, 2])
    some_queries, some_scores = np.empty(items * ROWS, k.dtype), np.empty((widest + ROOM) * ROWS, np.float32)
    some_spare, some_results = np.empty((widest // 2 + 1) * ROWS, np.int32), np.empty(ROWS * dim, np.float32)
    keys, begin, end = np.empty(widest + ROOM, np.int32), np.empty(ROWS, np.int32), np.empty(ROWS, np.int32)
    high, mass = np.empty(ROWS, np.float32), np.empty(ROWS, np.float32)
    for group in range(len(edges)):
        lo, hi, first, last = edges[group]
        n, size = last - first, hi - lo
        rows = (size + LANES - 1) // LANES * LANES
        queries, scores = (
            some_queries[: items * rows].reshape(items, rows),
            some_scores[: (n + ROOM) * rows].reshape(-1, rows),
        )
        spare, result = some_spare[: (n + 1) // 2 * rows].reshape(-1, rows), some_results[: rows * dim].reshape(-1, dim)
        for r in range(rows):
            ahead = q.ctypes.data + 4 * items * row[min(lo + r + _AHEAD, hi - 1)]
            for line in range(ahead, ahead + 4 * items, 64):
                prefetch(line)
            span = min(lo + r, hi - 1)
            source, begin[r], end[r] = q[row[span]], start[span], stop[span]
            for d in range(items):
                queries[d, r] = source[d]
        for j in range(n):
            keys[j] = first + j
        multiply(k, keys, n, queries, scores)
        for j in range(n):
            for r in range(rows):
                if keys[j] < begin[r] or keys[j] >= end[r]:
                    scores[j, r] = HIDDEN
        weigh(scores, n, np.float32(factor), high[:rows])
        sum_values(scores, v, keys, n, mass[:rows], spare, result)
        for r in range(size):
            top[lo + r], total[lo + r] = high[r] * np.float32(factor), mass[r]
            for d in range(dim):
                partial[lo + r, d] = result[r, d]


_REST = "int64[::1],int32[::1],int32[::1],int64[:,::1],float64,float32[::1],float32[::1],float32[:,::1])"
_groups_float32 = kernel("void(float32[:,::1],float32[:,::1],float32[:,::1]," + _REST)(_some_groups)
_groups_pairs = kernel("void(int32[:,::1],int32[:,::1],uint16[:,::1]," + _REST)(_some_groups)


@kernel("void(float32[:,::1],int32[:,::1],float32[::1],float32[::1],float32[:,::1],float32[:,::1],int64,int64)")
def _combine(
    partial: Array, place: Array, top: Array, total: Array, gate: Array, out: Array, start: int, stop: int
) -> None:
    """Rows start..stop-1 of ``out``: each span joined with the window by their softmax masses, then the gates."""
    count = gate.shape[1]
    for row in range(start, stop):
        o = out[row]
        for d in range(o.shape[0]):
            o[d] = _ZERO
        near = place[row, count]
        share = _ZERO
        for j in range(count):
            far = place[row, j]
            g = gate[row, j]
            if far < 0:
                if near >= 0:
                    share += g / total[near]
                continue
            other = g / total[far]
            if near >= 0:
                highest = max(top[near], top[far])
                a, b = exp2_negative(top[near] - highest), exp2_negative(top[far] - highest)
                both = a * total[near] + b * total[far]
                share += g * a / both
                other = g * b / both
            p = partial[far]
            for d in range(o.shape[0]):
                o[d] += other * p[d]
        if near >= 0:
            p = partial[near]
            for d in range(o.shape[0]):
                o[d] += share * p[d]


class Head(NamedTuple):
    """One head on its way: N spans and windows in the order of ``plan``.

    ``q`` [Lq, items] and ``k`` [Lk, items] as ``rows_cpu`` takes them, ``v`` [Lk, Dv] in the same dtype; ``row`` int64
    [N], query of a span; ``top``, ``total`` [N], highest score times log2 e and sum of weights; ``partial`` [N, >= Dv],
    sum of weighted values. In float32 the scale and log2 e are factors of ``q``.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    plan: SpanPlan
    row: Tensor
    top: Array
    total: Array
    partial: Tensor


def heads_of(
    q: Tensor, k: Tensor, v: Tensor, spans: Spans, scale: float, *, pairs: bool = False
) -> Iterator[tuple[tuple[int, int], tuple[int, int], Head]]:
    """Head after head, with its indices in q and in k; the next one overwrites ``partial``."""
    group, window = q.shape[1] // k.shape[1], spans.window_start.to(torch.int32).numpy()
    factor = scale * math.log2(math.e)
    q = items_of(q if pairs else q.float() * factor, pairs=pairs)
    width = -(-v.shape[3] // LANES) * LANES
    buffer = torch.empty(0, width)
    attend = _groups_pairs() if pairs else _groups_float32()
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            kv = (b, h // group)
            if h % group == 0:
                key, value = items_of(k[kv], pairs=pairs), v[kv].contiguous() if pairs else v[kv].float().contiguous()
                padded = pad(value, (0, width - value.shape[1])) if width > value.shape[1] else value
            plan = groups(spans.start[b, h].numpy(), spans.stop[b, h].numpy(), window, spans.len_k)
            count = len(plan.row)
            if count > buffer.shape[0]:
                buffer = torch.empty(count, width)
            head = Head(
                q[b, h], key, value, plan, torch.from_numpy(plan.row), np.empty(count, np.float32),
                np.empty(count, np.float32), buffer[:count],
            )  # fmt: skip
            given = (
                head.q.numpy(), key.numpy(), (padded.view(torch.uint16) if pairs else padded).numpy(), plan.row,
                plan.start, plan.stop,
            )  # fmt: skip
            # Small portions: the groups of the first keys hold the shortest spans, and threads take them in turn.
            portions = np.array_split(plan.edges, max(1, min(len(plan.edges), 16 * thread_count())))
            made = (factor if pairs else 1.0, head.top, head.total, head.partial.numpy())
            run(attend, [(*given, portion, *made) for portion in portions if len(portion)])
            yield (b, h), kv, head


def gates(spans: Spans, gate_scale: float) -> Tensor:
    """Step 6: [B, Hq, Lq, k]; uniform where a query has no span."""
    return (gate_scale * spans.scores).masked_fill(spans.anchors < 0, -1e9).softmax(-1)


def span_attention(q: Tensor, k: Tensor, v: Tensor, spans: Spans, scale: float, gate_scale: float) -> Tensor:
    """q [B, Hq, Lq, D], k [B, Hkv, Lk, D], v [B, Hkv, Lk, Dv], any dtype but float64 -> out [B, Hq, Lq, Dv]."""
    q, k, v = q.detach(), k.detach(), v.detach()
    len_q, value_dim = q.shape[2], v.shape[3]
    out = torch.empty(*q.shape[:3], value_dim, dtype=q.dtype)
    gate, result = gates(spans, gate_scale), torch.empty(len_q, value_dim)
    combine = _combine()
    pairs = q.dtype == torch.bfloat16 and scale > 0 and multiplies_pairs()
    with kernels_own_the_threads():
        for at, _, head in heads_of(q, k, v, spans, scale, pairs=pairs):
            arrays = (
                head.partial.numpy(), head.plan.place, head.top, head.total, gate[at].numpy(), result.numpy()
            )  # fmt: skip
            run(combine, [(*arrays, *band) for band in bands(len_q, 64)])
            out[at] = result
    return out
