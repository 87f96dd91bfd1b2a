"""Numba kernels of the block engine: softmax of one tile of scores, in place, and what is around the two products."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from ...jit import FASTMATH, exp2_negative, kernel

Array = np.ndarray[Any, Any]
_ZERO, _LOWEST = np.float32(0), np.float32(-np.inf)
_LN2 = np.float32(np.log(2))
_LARGE = np.float32(4096)  # scaled scores whose products are rounded by up to 2^-12
_ONE, _SIXTEEN = np.float32(1), np.uint32(16)


@njit(error_model="numpy", inline="always")
def _ordered(bits: Any) -> Any:
    """The bits of a float32 as an integer of the same order: integers have vector maxima, floats with NaN have none."""
    return np.int32(bits ^ (np.int32(bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))


@njit(error_model="numpy")
def _highest(row: Array) -> Any:
    """Maximum; NaN if there is one; minus infinity for an empty row. ``row``: bits of float32 as int32."""
    if not row.size:
        return _LOWEST
    high = low = _ordered(row[0])
    for j in range(row.size):
        value = _ordered(row[j])
        high, low = max(high, value), min(low, value)
    top, bottom = _ordered(high).view(np.float32), _ordered(low).view(np.float32)
    return top if bottom == bottom else bottom  # NaN is the greatest or, with its sign bit set, the smallest


@njit(fastmath=FASTMATH, error_model="numpy")
def _weigh(row: Array, factor: Any, high: Any) -> Any:
    """Scores to weights 2^(factor * (score - high)) in place; their sum.

    Where the scaled scores are large, the difference comes first: that of two rounded products would be anything.
    """
    total, scaled = _ZERO, high * factor
    if not abs(scaled) < _LARGE:
        for j in range(row.size):
            weight = exp2_negative((row[j] - high) * factor)
            row[j] = weight
            total += weight
        return total
    for j in range(row.size):
        weight = exp2_negative(row[j] * factor - scaled)
        row[j] = weight
        total += weight
    return total


@njit(error_model="numpy")
def _higher(a: Any, b: Any) -> Any:
    """The greater of two, NaN if one is."""
    return a if b <= a or a != a else b


@njit(fastmath=FASTMATH, error_model="numpy")
def _clear(row: Array) -> None:
    for j in range(row.size):
        row[j] = 0


@kernel("void(float32[:,::1],int32[:,::1],int64[::1],int64[::1],int64,float32,float32[::1],float32[::1],float32[::1])")
def softmax(
    scores: Array,
    bits: Array,
    first: Array,
    last: Array,
    sinks: int,
    factor: Any,
    high: Array,
    total: Array,
    fade: Array,
) -> None:
    """One step of the online softmax in base 2: ``scores`` [rows, keys] to weights in place.

    ``total`` is -1 in a row that has seen keys, all of them of score minus infinity, whose result is NaN as in eager.
    ``bits`` is the same memory as signed integers. Row i sees the columns below ``last[i]``, except those from
    ``sinks`` on that are below ``first[i]``. ``high``, the largest scores without ``factor``, and ``total`` [rows] are
    brought up to date; ``fade`` is what earlier sums are to be multiplied with.
    """
    for i in range(scores.shape[0]):
        c = last[i]
        b = min(first[i], c)
        a = min(sinks, b)  # seen: columns [0, a) and [b, c)
        new = _higher(high[i], _higher(_highest(bits[i, :a]), _highest(bits[i, b:c])))
        if new == _LOWEST:  # no key seen so far, or none whose score is more than minus infinity
            _clear(scores[i])
            fade[i] = _ZERO
            if a > 0 or c > b:
                total[i] = -_ONE
            continue
        if new != new:  # a NaN among the scores: the row's result is NaN, as in eager
            _clear(scores[i])
            high[i] = total[i] = fade[i] = new
            continue
        _clear(scores[i, a:b])
        _clear(scores[i, c:])
        fade[i] = exp2_negative((high[i] - new) * factor) if high[i] > _LOWEST else _ZERO
        total[i] = total[i] * fade[i] + _weigh(scores[i, :a], factor, new) + _weigh(scores[i, b:c], factor, new)
        high[i] = new


@kernel("void(float32[:,::1],float32[::1],float32[:,::1])")
def scale_and_add(mean: Array, fade: Array, part: Array) -> None:
    """mean = mean * fade + part, row by row."""
    for i in range(mean.shape[0]):
        row, factor, add = mean[i], fade[i], part[i]
        for j in range(row.size):
            row[j] = row[j] * factor + add[j]


@kernel("void(float32[:,::1],float32[::1],float32[::1],float32,float32[::1])")
def finish(mean: Array, high: Array, total: Array, factor_of_scores: Any, lse: Array) -> None:
    """Divide ``mean`` [rows, Dv] by the sums of weights; ``lse`` in natural logarithm. Rows without keys: 0, -inf."""
    for i in range(mean.shape[0]):
        if total[i] < _ZERO:
            mean[i], lse[i] = np.float32(np.nan), _LOWEST
            continue
        row, factor = mean[i], _ONE / total[i] if total[i] != _ZERO else _ZERO
        for d in range(row.size):
            row[d] *= factor
        lse[i] = (high[i] * factor_of_scores + np.log2(total[i])) * _LN2 if total[i] != _ZERO else _LOWEST


@kernel("void(int32[::1],int64,int64,int64[:,::1],int64[::1])")
def runs(blocks: Array, size: int, length: int, spans: Array, count: Array) -> None:
    """The keys of ``blocks`` as runs: the first count[0] rows of ``spans``.

    ``blocks`` is ascending; block i has the keys from i * ``size`` on, ``size`` of them or up to ``length``.
    """
    n = 0
    for block in blocks:
        if not n or spans[n - 1, 1] != block * size:
            spans[n, 0] = block * size
            n += 1
        spans[n - 1, 1] = (block + 1) * size
    if n:
        spans[n - 1, 1] = min(spans[n - 1, 1], length)
    count[0] = n


@kernel("void(int64[:,::1],int64,int64,int64[:,::1],int64[::1],int64[::1])")
def cut(spans: Array, limit: int, size: int, pieces: Array, ends: Array, widths: Array) -> None:
    """Cut the keys of ``spans`` below ``limit`` into parts of ``size`` keys each, but the last.

    Part i has ``widths[i]`` keys, the rows ends[i] to ends[i + 1] of ``pieces``; parts without keys come last.
    """
    n = part = 0
    for s in range(spans.shape[0]):
        start, stop = spans[s, 0], min(spans[s, 1], limit)
        while start < stop:
            if widths[part] == size:
                part += 1
                ends[part] = n
            end = min(stop, start + size - widths[part])
            pieces[n, 0], pieces[n, 1] = start, end
            widths[part] += end - start
            n += 1
            start = end
    ends[part + 1 :] = n


@kernel("void(int64[:,::1],int64,int64,int64[::1],int64[::1])")
def edges(spans: Array, at: int, window: int, first: Array, last: Array) -> None:
    """Row i is at position at + i: last[i] keys of ``spans`` lie at or before it, first[i] before its window."""
    for i in range(first.size):
        here, f, c = at + i, 0, 0
        for s in range(spans.shape[0]):
            start, stop = spans[s, 0], spans[s, 1]
            c += max(0, min(stop, here + 1) - start)
            f += max(0, min(stop, here - window + 1) - start)
        first[i], last[i] = f, c


def _hide(first: Array, last: Array, sinks: int, hidden: Any, mask: Array, seen: Array) -> None:
    """``hidden`` into ``mask`` [rows, keys] where a row does not see a key, else 0; whether it sees any into ``seen``.

    Which keys it sees: as in ``softmax``.
    """
    for i in range(mask.shape[0]):
        row, c = mask[i], last[i]
        b = min(first[i], c)
        a = min(sinks, b)
        row[:a] = 0
        row[a:b] = hidden
        row[b:c] = 0
        row[c:] = hidden
        seen[i] = a + c - b > 0


_SEEN = "void(int64[::1],int64[::1],int64,int64,{}[:,::1],boolean[::1])"
hide_16 = kernel(_SEEN.format("int16"))(_hide)
hide_32 = kernel(_SEEN.format("int32"))(_hide)


@kernel("void(int32[:,::1],int64[:,::1],int32[:,::1])")
def gather_words(x: Array, spans: Array, out: Array) -> None:
    """The rows ``spans`` of ``x`` one behind the other, as words of 32 bits."""
    n = 0
    for s in range(spans.shape[0]):
        for j in range(spans[s, 0], spans[s, 1]):
            source, target = x[j], out[n]
            for d in range(source.size):
                target[d] = source[d]
            n += 1


@kernel("void(uint16[:,::1],int64[:,::1],uint32[:,::1])")
def gather_bfloat16(x: Array, spans: Array, out: Array) -> None:
    """As ``gather_words``, bfloat16 to float32: its bits are the upper half."""
    n = 0
    for s in range(spans.shape[0]):
        for j in range(spans[s, 0], spans[s, 1]):
            source, target = x[j], out[n]
            for d in range(source.size):
                target[d] = np.uint32(source[d]) << _SIXTEEN
            n += 1
