"""Superlinear attention, steps 5 and 6, fast: spans that lie together become one matrix product.

A span is a vector times a matrix, which the memory bounds. But about num_spans L spans lie on L keys, so that spans
sorted by where they end come in groups whose union is hardly longer than one of them: a group's queries are gathered,
and scores and outputs are two matrix products. The window of a query is a span as well, computed once and merged into
the softmax of each of its spans at the end.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...jit import exp2_negative, kernel
from ...threads import bands, kernels_own_the_threads, run, thread_count

if TYPE_CHECKING:
    from .comb import Spans

Array = np.ndarray[Any, Any]
_BUCKET = 64  # keys: spans that end in the same bucket may form a group
ROWS = 64  # spans of a group
_ZERO = np.float32(0)
_SMALLEST, _REST, _SIGN = np.int32(-(2**31)), np.int32(2**31 - 1), np.int32(31)


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


@kernel("void(float32[:,::1],int32[::1],int32[::1],int64,float32[::1],float32[::1])")
def _weights(scores: Array, start: Array, stop: Array, first: int, top: Array, total: Array) -> None:
    """Scores [R, N] of keys first.., times log2 e, to weights 2^(s - max) inside each row's span, 0 outside."""
    for row in range(scores.shape[0]):
        line, lo, hi = scores[row], start[row] - first, stop[row] - first
        line[:lo] = _ZERO
        line[hi:] = _ZERO
        s = line[lo:hi]
        order = _SMALLEST  # bits of a float, made to compare as an integer: only integer maxima become vector code
        for i in range(s.shape[0]):
            bits = np.float32(s[i]).view(np.int32)
            order = max(order, bits ^ ((bits >> _SIGN) & _REST))
        highest = np.int32(order ^ ((order >> _SIGN) & _REST)).view(np.float32)
        mass = _ZERO
        for i in range(s.shape[0]):
            weight = exp2_negative(s[i] - highest)
            s[i] = weight
            mass += weight
        top[row], total[row] = highest, mass


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

    ``q`` float32 [Lq, D] times scale and log2 e; ``k``, ``v`` float32 [Lk, D], [Lk, Dv]; ``row`` int64 [N], query of a
    span; ``top``, ``total`` [N], highest score and sum of weights; ``partial`` [N, Dv], sum of weighted values.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    plan: SpanPlan
    row: Tensor
    top: Array
    total: Array
    partial: Tensor


@torch.inference_mode()  # a mode counts per thread; this one may write to tensors of any
def _some_groups(head: Head, mine: Array) -> None:
    """The groups ``mine`` (rows of ``plan.edges``) into ``top``, ``total`` and ``partial``."""
    torch.set_num_threads(1)  # counts per thread: the bits of a product must not depend on how many share it
    weights, plan = _weights(), head.plan
    widest = int((mine[:, 3] - mine[:, 2]).max())
    gathered, buffer = torch.empty(ROWS, head.q.shape[1]), torch.empty(ROWS * widest)
    for lo, hi, first, last in mine.tolist():
        size = hi - lo
        rows = torch.index_select(head.q, 0, head.row[lo:hi], out=gathered[:size])
        scores = buffer[: size * (last - first)].view(size, last - first)
        torch.mm(rows, head.k[first:last].T, out=scores)
        weights(scores.numpy(), plan.start[lo:hi], plan.stop[lo:hi], first, head.top[lo:hi], head.total[lo:hi])
        torch.mm(scores, head.v[first:last], out=head.partial[lo:hi])


def attend_head(q: Tensor, k: Tensor, v: Tensor, plan: SpanPlan, scale: float, buffer: Tensor) -> Head:
    """Every span of one head by itself. q [Lq, D], any dtype; k, v float32; ``buffer`` [>= N, Dv] for ``partial``."""
    count = len(plan.row)
    _weights()  # compiled before threads ask for it
    head = Head(
        q.float() * (scale * math.log2(math.e)), k, v, plan, torch.from_numpy(plan.row), np.empty(count, np.float32),
        np.empty(count, np.float32), buffer[:count],
    )  # fmt: skip
    # Small portions: the groups of the first keys hold the shortest spans, and threads take them in turn.
    portions = np.array_split(plan.edges, max(1, min(len(plan.edges), 16 * thread_count())))
    run(_some_groups, [(head, portion) for portion in portions if len(portion)])
    return head


def heads_of(
    q: Tensor, k: Tensor, v: Tensor, spans: Spans, scale: float
) -> Iterator[tuple[tuple[int, int], tuple[int, int], Head]]:
    """Head after head, with its indices in q and in k; the next one overwrites ``partial``."""
    group, window = q.shape[1] // k.shape[1], spans.window_start.to(torch.int32).numpy()
    buffer = torch.empty(0, v.shape[3])
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            kv = (b, h // group)
            if h % group == 0:
                key, value = k[kv].float(), v[kv].float().contiguous()
            plan = groups(spans.start[b, h].numpy(), spans.stop[b, h].numpy(), window, spans.len_k)
            if len(plan.row) > buffer.shape[0]:
                buffer = torch.empty(len(plan.row), v.shape[3])
            yield (b, h), kv, attend_head(q[b, h], key, value, plan, scale, buffer)


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
    with kernels_own_the_threads():
        for at, _, head in heads_of(q, k, v, spans, scale):
            arrays = (
                head.partial.numpy(), head.plan.place, head.top, head.total, gate[at].numpy(), result.numpy()
            )  # fmt: skip
            run(combine, [(*arrays, *band) for band in bands(len_q, 64)])
            out[at] = result
    return out
