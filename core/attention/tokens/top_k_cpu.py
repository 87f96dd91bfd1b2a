"""Exact top k of a row on the CPU, by counting: numba functions for the kernels of the indexer.

The threshold is found by false position on "how many entries are at least t", starting from the threshold of the row
before. Each count is one vectorised pass over a row that lies in the cache, which makes the seven or so passes cheaper
than one histogram. Loops run over slices from 0: for an index that might be negative numba adds a test to every access.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from ...jit import FASTMATH

Floats = np.ndarray[Any, np.dtype[np.float32]]
_SIGN = np.int32(0x7FFFFFFF)
_ZERO, _ONE = np.int32(0), np.int32(1)
_INF, _NAN = np.float32(np.inf), np.float32(np.nan)
LARGEST = np.float32(np.finfo(np.float32).max)


@njit(fastmath=FASTMATH, error_model="numpy")
def _count(x: Floats, threshold: Any) -> Any:
    """How many of ``x`` are at least ``threshold``."""
    n = _ZERO
    for i in range(x.size):
        n = np.int32(n + (_ONE if x[i] >= threshold else _ZERO))
    return np.int64(n)


@njit(fastmath=FASTMATH, error_model="numpy", inline="always")
def _rank(x: Any) -> Any:
    """An int64 that orders floats as they are ordered."""
    bits = np.float32(x).view(np.int32)
    return np.int64(bits ^ ((bits >> np.int32(31)) & _SIGN))


@njit(fastmath=FASTMATH, error_model="numpy", inline="always")
def _unrank(rank: Any) -> Any:
    """The float of a rank."""
    bits = np.int32(rank)
    return np.int32(bits ^ ((bits >> np.int32(31)) & _SIGN)).view(np.float32)


@njit(fastmath=FASTMATH, error_model="numpy")
def ranked(x: Floats, top: Any) -> None:
    """In place: NaN, and what is above ``top``, to ``top``. With infinity as ``top``: ``top_k.ranked``."""
    for i in range(x.size):
        x[i] = x[i] if x[i] <= top else top


@njit(fastmath=FASTMATH, error_model="numpy")
def threshold(x: Floats, top_k: int, guess: Any) -> tuple[Any, Any, Any]:
    """Where to cut ``x``, without NaN (``ranked``), so that ``top_k`` < x.size entries remain.

    Returns (hi, lo, ties): take what is >= hi and the first ``ties`` entries that equal lo. From ``guess`` in growing
    steps until both sides are known, then Illinois steps, then halving of the bit patterns: some 60 passes at most,
    whatever the row holds, infinities included.
    """
    lo, hi = -_INF, _INF
    above_hi = _count(x, hi)
    if above_hi >= top_k:
        return _NAN, hi, top_k  # nothing is >= NaN
    weight_lo = weight_hi = np.float64(0)  # of each side in the interpolation; 0: not bracketed yet
    last_side = 0
    t = guess
    stride = abs(guess) * np.float32(0.0625)
    for step in range(64):
        n = _count(x, t)
        if n == top_k:
            return t, t, 0
        if n > top_k:
            lo = t
            weight_lo = np.float64(n - top_k)
            if last_side == 1:
                weight_hi *= 0.5
            last_side = 1
        else:
            hi, above_hi = t, n
            weight_hi = np.float64(top_k - n)
            if last_side == 2:
                weight_lo *= 0.5
            last_side = 2
        rank_lo, rank_hi = _rank(lo), _rank(hi)
        if rank_hi - rank_lo <= 1:
            break
        if weight_lo > 0 and weight_hi > 0:
            t = np.float32(lo + (np.float64(hi) - np.float64(lo)) * (weight_lo / (weight_lo + weight_hi)))
        else:
            t = guess + (stride if last_side == 1 else -stride)
            stride *= np.float32(4)
        if step >= 24 or not lo < t < hi:
            t = _unrank((rank_lo + rank_hi) >> 1)
    return hi, lo, top_k - above_hi
