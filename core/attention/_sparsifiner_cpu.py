"""Sparsifiner on the CPU: numba kernels that go from reduced queries to key lists, and from lists to outputs.

One query at a time: its predicted attention lives in the first-level cache, so nothing of size N x N exists.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from ..jit import FASTMATH, exp2_negative, exp_negative, kernel

Array = np.ndarray[Any, np.dtype[np.float32]]
Indices = np.ndarray[Any, np.dtype[np.int32]]
_ZERO = np.float32(0)
_NAN = np.float32(np.nan)


@njit(fastmath=FASTMATH, error_model="numpy")
def _cut(x: Array, count: int) -> Any:
    """The ``count``-th largest of ``x``, whose entries are not negative: bisection over the bits of the float.

    Thirty passes over a row in the first-level cache, each at full vector width, are faster than sorting it.
    """
    largest = _ZERO
    for j in range(x.shape[0]):
        largest = max(largest, x[j])
    low, high = np.int32(0), np.float32(largest).view(np.int32)
    while low < high:
        middle = np.int32(low + (high - low + np.int32(1)) // np.int32(2))
        bound = np.int32(middle).view(np.float32)
        above = np.int32(0)
        for j in range(x.shape[0]):
            above += np.int32(x[j] >= bound)
        if above >= count:
            low = middle
        else:
            high = np.int32(middle - np.int32(1))
    return np.int32(low).view(np.float32)


@njit(fastmath=FASTMATH, error_model="numpy")
def _ties(x: Array, cut: Any, count: int) -> Any:
    """How many entries equal to ``cut`` belong to the ``count`` largest."""
    above = np.int32(0)
    for j in range(x.shape[0]):
        above += np.int32(x[j] > cut)
    return count - above


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
    "void(float32[:,::1],float32[:,::1],float32[:,::1],int64,int32[:,::1],float32[::1],float32[::1],int64,int64,int64)"
)
def select_rows(
    query: Array, pooled: Array, basis: Array, topk: int, index: Indices, coef: Array, approx: Array,
    start: int, stop: int, first: int,
) -> None:  # fmt: skip
    """Steps 3-7 for queries start..stop-1, into rows ``first``.. of ``index`` [., K]: their keys, ascending.

    ``query`` [R, c] (scaled), ``pooled`` [c, n], ``basis`` [n, N], not negative; ``coef`` [n] and ``approx`` [N] are
    scratch. Among equals the smaller position is chosen.
    """
    n, num_keys, budget = coef.shape[0], approx.shape[0], index.shape[1]
    for i in range(start, stop):
        _softmax_row(query[i], pooled, coef)
        cut = _cut(coef, topk)
        ties = _ties(coef, cut, topk)
        for j in range(num_keys):
            approx[j] = _ZERO
        for c in range(n):
            x = coef[c]
            if x == cut:
                ties -= 1
            if x > cut or (x == cut and ties >= 0):
                for j in range(num_keys):
                    approx[j] += x * basis[c, j]
        cut = _cut(approx, budget)
        ties = _ties(approx, cut, budget)
        row, at = first + i - start, 0
        for j in range(num_keys):
            x = approx[j]
            take = x > cut
            if x == cut and ties > 0:
                ties -= 1
                take = True
            if at < budget:
                index[row, at] = j
            at += int(take)
        for j in range(at, budget):  # only where NaN left no order
            index[row, j] = j


@kernel(
    "void(float32[:,::1],float32[:,::1],float32[:,::1],int32[:,::1],float32[:,::1],float32[::1],float32,int64,int64,int64)"
)
def attend_lists(
    q: Array, k: Array, v: Array, index: Indices, out: Array, score: Array, scale: np.float32,
    start: int, stop: int, first: int,
) -> None:  # fmt: skip
    """Rows start..stop-1 of ``out`` [L, Dv]: softmax attention over the keys in rows ``first``.. of ``index``.

    ``scale`` holds the factor log2 e; ``score`` [K] is scratch. A score that is not finite makes the row NaN.
    """
    width, num = q.shape[1], index.shape[1]
    for i in range(start, stop):
        keys = index[first + i - start]
        largest, check = np.float32(-np.inf), _ZERO
        for j in range(num):
            s, key = _ZERO, keys[j]
            for d in range(width):
                s += q[i, d] * k[key, d]
            s *= scale
            score[j] = s
            check += s - s
            largest = max(largest, s)
        total = _ZERO
        for j in range(num):
            score[j] = exp2_negative(score[j] - largest)
            total += score[j]
        for d in range(out.shape[1]):
            out[i, d] = _ZERO
        if check != _ZERO:
            total = _NAN
        for j in range(num):
            p, key = score[j] / total, keys[j]
            for d in range(out.shape[1]):
                out[i, d] += p * v[key, d]
