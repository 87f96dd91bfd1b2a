"""Sparsifiner on the CPU: numba kernels that go from reduced queries to key lists, and from lists to outputs.

One query at a time: its predicted attention lives in the first-level cache, so nothing of size N x N exists.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from ...jit import FASTMATH, exp2_negative, exp_negative, kernel
from ...threads import run
from ..equations import masked_attention
from .selection import ROWS, ReducedOperands, SparsifinerSelection

Array = np.ndarray[Any, np.dtype[np.float32]]
Indices = np.ndarray[Any, np.dtype[np.int32]]
_LOG2_E = 1.4426950408889634
_ZERO, _ONE = np.float32(0), np.float32(1)


@njit(fastmath=FASTMATH, error_model="numpy")
def _cut(x: Array, count: int) -> Any:
    """A bound that only the ``count`` largest of ``x`` exceed or, where there are ties, equal; entries not negative.

    Bisection over the bits of the float: some twenty passes over a row in the first-level cache, each at full vector
    width, are faster than sorting it.
    """
    largest = _ZERO
    for j in range(x.shape[0]):
        largest = max(largest, x[j])
    low, high = np.int32(0), np.float32(largest).view(np.int32)
    while low < high:
        middle = np.int32(low + (high - low + np.int32(1)) // np.int32(2))
        bound = np.int32(middle).view(np.float32)
        above = _ZERO  # a float: numba widens sums of int32
        for j in range(x.shape[0]):
            above += _ONE if x[j] >= bound else _ZERO
        if above == count:
            return bound
        if above > count:
            low = middle
        else:
            high = np.int32(middle - np.int32(1))
    return np.int32(low).view(np.float32)


@njit(fastmath=FASTMATH, error_model="numpy")
def _largest(x: Array, count: int, keys: Indices) -> None:
    """Positions of the ``count`` largest of ``x`` [N], ascending, to the front of ``keys`` [N + 1]; ties: the first."""
    cut = _cut(x, count)
    above = reached = _ZERO
    for j in range(x.shape[0]):
        above += _ONE if x[j] > cut else _ZERO
        reached += _ONE if x[j] >= cut else _ZERO
    ties, at = count - int(above), 0
    if int(reached) == count:
        for j in range(x.shape[0]):
            keys[at] = j  # written in any case, counted if it is one: no branch to mispredict
            at += int(x[j] >= cut)
    else:
        for j in range(x.shape[0]):
            keys[at] = j
            if x[j] > cut:
                at += 1
            elif x[j] == cut and ties > 0:
                ties -= 1
                at += 1
    for j in range(at, count):  # only where NaN left no order
        keys[j] = j


@njit(fastmath=FASTMATH, error_model="numpy")
def _softmax_row(query: Array, pooled: Array, coef: Array) -> None:
    """coef = softmax(query [c] @ pooled [c, n])."""
    n = coef.shape[0]
    for j in range(n):
        coef[j] = query[0] * pooled[0, j]
    for c in range(1, query.shape[0]):
        x = query[c]
        for j in range(n):
            coef[j] += x * pooled[c, j]
    largest = coef[0]
    for j in range(1, n):
        largest = max(largest, coef[j])
    total = _ZERO
    for j in range(n):
        coef[j] = exp_negative(coef[j] - largest)
        total += coef[j]
    for j in range(n):
        coef[j] /= total


@kernel(
    "void(float32[:,::1],float32[:,::1],float32[:,::1],int64,int32[:,::1],float32[::1],float32[::1],int32[::1],int64,int64,int64)"
)
def select_rows(
    query: Array, pooled: Array, basis: Array, topk: int, index: Indices, coef: Array, approx: Array, keys: Indices,
    start: int, stop: int, first: int,
) -> None:  # fmt: skip
    """Steps 3-7 for queries start..stop-1, into rows ``first``.. of ``index`` [., K]: their keys, ascending.

    ``query`` [R, c] (scaled), ``pooled`` [c, n], ``basis`` [n, N], not negative; ``coef`` [n], ``approx`` [N] and
    ``keys`` [N + 1] are scratch. Among equals the smaller position is chosen.
    """
    num_keys, budget = approx.shape[0], index.shape[1]
    for i in range(start, stop):
        _softmax_row(query[i], pooled, coef)
        _largest(coef, topk, keys)
        for j in range(num_keys):
            approx[j] = _ZERO
        for c in range(topk):
            x, row = coef[keys[c]], keys[c]
            for j in range(num_keys):
                approx[j] += x * basis[row, j]
        _largest(approx, budget, keys)
        for j in range(budget):
            index[first + i - start, j] = keys[j]


@kernel(
    "void(float32[:,::1],float32[:,::1],float32[:,::1],int32[:,::1],float32[:,::1],float32[::1],float32,int64,int64,int64)"
)
def attend_lists(
    q: Array, k: Array, v: Array, index: Indices, out: Array, score: Array, scale: np.float32,
    start: int, stop: int, first: int,
) -> None:  # fmt: skip
    """Rows start..stop-1 of ``out`` [L, Dv]: softmax attention over the keys in rows ``first``.. of ``index``.

    ``scale`` holds the factor log2 e; ``score`` [K] is scratch.
    """
    width, values, num = q.shape[1], out.shape[1], index.shape[1]
    fours = (
        num - num % 4
    )  # keys four at a time: their sums do not wait for each other, and ``out`` is loaded less often
    for i in range(start, stop):
        keys = index[first + i - start]
        for j in range(0, fours, 4):
            a, b, c, e = keys[j], keys[j + 1], keys[j + 2], keys[j + 3]
            sa = sb = sc = se = _ZERO
            for d in range(width):
                x = q[i, d]
                sa += x * k[a, d]
                sb += x * k[b, d]
                sc += x * k[c, d]
                se += x * k[e, d]
            score[j], score[j + 1], score[j + 2], score[j + 3] = sa * scale, sb * scale, sc * scale, se * scale
        for j in range(fours, num):
            s, a = _ZERO, keys[j]
            for d in range(width):
                s += q[i, d] * k[a, d]
            score[j] = s * scale
        largest, total = score[0], _ZERO
        for j in range(1, num):
            largest = max(largest, score[j])
        for j in range(num):
            score[j] = exp2_negative(score[j] - largest)
            total += score[j]
        for d in range(values):
            out[i, d] = _ZERO
        for j in range(0, fours, 4):
            a, b, c, e = keys[j], keys[j + 1], keys[j + 2], keys[j + 3]
            pa, pb, pc, pe = score[j] / total, score[j + 1] / total, score[j + 2] / total, score[j + 3] / total
            for d in range(values):
                out[i, d] += pa * v[a, d] + pb * v[b, d] + pc * v[c, d] + pe * v[e, d]
        for j in range(fours, num):
            pa, a = score[j] / total, keys[j]
            for d in range(values):
                out[i, d] += pa * v[a, d]


def _choose(operands: ReducedOperands, b: int, h: int, start: int, index: Indices, first: int) -> None:
    """Steps 3-7 of one piece, into rows ``first``.. of ``index`` [., K]."""
    coef, approx = (np.empty(size, np.float32) for size in operands.basis.shape)
    keys = np.empty(len(approx) + 1, np.int32)
    stop = min(start + ROWS, operands.query.shape[2])
    query, pooled, basis = operands.query[b, h].numpy(), operands.pooled[b, h].numpy(), operands.basis.numpy()
    select_rows()(query, pooled, basis, operands.topk, index, coef, approx, keys, start, stop, first)


class _Attention:
    """Attention over lists in float32: ``out`` [B, Hq, N, Dv] has the class token's row from the start."""

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, first_row: int, scale: float | None) -> None:
        self.q, self.k, self.v = (x.detach().to(torch.float32).contiguous() for x in (q, k, v))
        self.first_row, self.group = first_row, q.shape[1] // k.shape[1]
        self.factor = np.float32((q.shape[-1] ** -0.5 if scale is None else scale) * _LOG2_E)
        self.out = torch.empty(*q.shape[:3], v.shape[3])
        self.out[:, :, :first_row] = masked_attention(self.q[:, :, :first_row], self.k, self.v, None, scale=scale)

    def piece(self, b: int, h: int, start: int, index: Indices, first: int) -> None:
        """At most ``ROWS`` queries from the ``start``-th that has a list, which is row ``first`` of ``index``."""
        score, row = np.empty(index.shape[1], np.float32), start + self.first_row
        kv, stop = h // self.group, min(row + ROWS, self.q.shape[2])
        attend_lists()(
            self.q[b, h].numpy(), self.k[b, kv].numpy(), self.v[b, kv].numpy(), index, self.out[b, h].numpy(), score,
            self.factor, row, stop, first,
        )  # fmt: skip


def lists(operands: ReducedOperands) -> Tensor:
    """As ``selection.lists``."""
    index = operands.no_lists()
    every = index.numpy()
    run(lambda b, h, start: _choose(operands, b, h, start, every[b, h], start), operands.pieces())
    return index


def attend(
    q: Tensor, k: Tensor, v: Tensor, selection: SparsifinerSelection, *, causal: bool = False,
    scale: float | None = None, settings: object = None,
) -> Tensor:  # fmt: skip
    """As ``operator.attend``, without gradients."""
    first = selection.first_row
    work, every = _Attention(q, k, v, first, scale), selection.lists.indices.numpy()
    starts = range(0, q.shape[2] - first, ROWS)
    pieces = [(b, h, start) for b in range(q.shape[0]) for h in range(q.shape[1]) for start in starts]
    run(lambda b, h, start: work.piece(b, h, start, every[b, h], start), pieces)
    return work.out.to(q.dtype)


def fused(q: Tensor, k: Tensor, v: Tensor, operands: ReducedOperands, scale: float | None) -> Tensor:
    """Choose and attend, a piece at a time, so that no list outlives its piece."""
    work = _Attention(q, k, v, operands.rules.first_row, scale)

    def piece(b: int, h: int, start: int) -> None:
        index = np.empty((min(ROWS, operands.query.shape[2] - start), operands.budget), dtype=np.int32)
        _choose(operands, b, h, start, index, 0)
        work.piece(b, h, start, index, 0)

    run(piece, operands.pieces())
    return work.out.to(q.dtype)
