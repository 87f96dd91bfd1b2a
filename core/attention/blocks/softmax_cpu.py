"""Numba kernels of the block engine: softmax of one tile of scores, in place, between the two matrix products."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload

from ...jit import FASTMATH, exp2_negative, kernel

Array = np.ndarray[Any, Any]
_ZERO, _LOWEST = np.float32(0), np.float32(-np.inf)
_SIXTEEN, _ROUND, _UPPER = np.uint32(16), np.int32(0x8000), np.uint32(0xFFFF0000)
_D1, _D2, _D3, _D4 = (np.float32(d) for d in (6.9312199e-01, 2.4023718e-01, 5.5916890e-02, 9.6004000e-03))
_LN2 = np.float32(np.log(2))
_LARGE = np.float32(4096)  # scaled scores whose products are rounded by up to 2^-12
_ONE, _HALF, _LOWEST2, _MANTISSA = np.float32(1), np.float32(0.5), np.float32(-125), np.int32(23)


@njit(fastmath=FASTMATH, error_model="numpy", inline="always")
def _widen(bits: Any) -> Any:
    """bfloat16 bits -> float32."""
    return np.uint32(np.uint32(bits) << _SIXTEEN).view(np.float32)


def _ordered(bits: Any) -> Any:
    """The bits of a float as an integer of the same order: integers have vector maxima, floats with NaN have none."""


@overload(_ordered, strict=False)
def _ordered_for(bits: Any) -> Any:
    if bits == types.int32:
        return lambda bits: np.int32(bits ^ (np.int32(bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))
    return lambda bits: np.int16(bits ^ (np.int16(bits >> np.int16(15)) & np.int16(0x7FFF)))


def _from_bits(bits: Any) -> Any:
    """The float32 value of ``bits``: those of a float32 as int32, or of a bfloat16 as int16."""


@overload(_from_bits, strict=False)
def _from_bits_for(bits: Any) -> Any:
    if bits == types.int32:
        return lambda bits: np.int32(bits).view(np.float32)
    return lambda bits: _widen(np.uint16(bits))


@njit(error_model="numpy")
def _highest(row: Array) -> Any:
    """Maximum as float32; NaN if there is one; minus infinity for an empty row. ``row``: bits of floats as integers."""
    if not row.size:
        return _LOWEST
    high = low = _ordered(row[0])
    for j in range(row.size):
        value = _ordered(row[j])
        high, low = max(high, value), min(low, value)
    top, bottom = _from_bits(_ordered(high)), _from_bits(_ordered(low))
    return top if bottom == bottom else bottom  # NaN is the greatest or, with its sign bit set, the smallest


@njit(fastmath=FASTMATH, error_model="numpy")
def _weigh_float32(row: Array, factor: Any, high: Any) -> Any:
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


@njit(fastmath=FASTMATH, error_model="numpy")
def _weigh_bfloat16(row: Array, factor: Any, high: Any) -> Any:
    """The sum is that of the rounded weights, so that they add up to one after the division.

    2^f by a polynomial of degree 4, relative error 3e-6: a thousandth of what the rounding to bfloat16 adds.
    """
    total, scaled = _ZERO, high * factor
    large = not abs(scaled) < _LARGE
    for j in range(row.size):
        x = (_widen(row[j]) - high) * factor if large else _widen(row[j]) * factor - scaled
        x = min(max(x, _LOWEST2), _ZERO)  # rounding alone lifts it above 0: see ``jit``
        n = np.int32(x - _HALF)
        f = x - np.float32(n)
        p = (((_D4 * f + _D3) * f + _D2) * f + _D1) * f + _ONE
        bits = np.uint32(np.int32(np.float32(p).view(np.int32) + (n << _MANTISSA)) + _ROUND)
        row[j] = np.uint16(bits >> _SIXTEEN)
        total += np.uint32(bits & _UPPER).view(np.float32)
    return total


def _weigh(row: Array, factor: Any, high: Any) -> Any:
    """Scores to weights 2^(factor * (score - high)) in place; their sum. ``row``: float32, or bfloat16 as uint16.

    Where the scaled scores are large, the difference comes first: that of two rounded products would be anything.
    """


@overload(_weigh, strict=False)
def _weigh_for(row: Any, factor: Any, high: Any) -> Any:
    weigh = _weigh_float32 if row.dtype == types.float32 else _weigh_bfloat16
    return lambda row, factor, high: weigh(row, factor, high)


@njit(error_model="numpy")
def _higher(a: Any, b: Any) -> Any:
    """The greater of two, NaN if one is."""
    return a if b <= a or a != a else b


@njit(fastmath=FASTMATH, error_model="numpy")
def _clear(row: Array) -> None:
    for j in range(row.size):
        row[j] = 0


def _softmax(
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

    ``bits`` is the same memory as signed integers. Row i sees the columns below ``last[i]``, except those from
    ``sinks`` on that are below ``first[i]``. ``high``, the largest scores without ``factor``, and ``total`` [rows] are
    brought up to date; ``fade`` is what earlier sums are to be multiplied with.
    """
    for i in range(scores.shape[0]):
        c = last[i]
        b = min(first[i], c)
        a = min(sinks, b)  # seen: columns [0, a) and [b, c)
        new = _higher(high[i], _higher(_highest(bits[i, :a]), _highest(bits[i, b:c])))
        if new == _LOWEST:  # no key seen so far
            _clear(scores[i])
            fade[i] = _ZERO
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


_REST = "int64[::1],int64[::1],int64,float32,float32[::1],float32[::1],float32[::1])"
softmax_float32 = kernel("void(float32[:,::1],int32[:,::1]," + _REST)(_softmax)
softmax_bfloat16 = kernel("void(uint16[:,::1],int16[:,::1]," + _REST)(_softmax)


@kernel("void(float32[:,::1],float32[::1])")
def scale_rows(mean: Array, fade: Array) -> None:
    """mean *= fade, row by row."""
    for i in range(mean.shape[0]):
        if fade[i] != np.float32(1):
            row, factor = mean[i], fade[i]
            for j in range(row.size):
                row[j] *= factor


@kernel("void(float32[:,::1],float32[::1],uint16[:,::1])")
def scale_and_add_bfloat16(mean: Array, fade: Array, part: Array) -> None:
    """mean = mean * fade + part, row by row."""
    for i in range(mean.shape[0]):
        row, factor, add = mean[i], fade[i], part[i]
        for j in range(row.size):
            row[j] = row[j] * factor + _widen(add[j])


@kernel("void(float32[:,::1],float32[::1],float32[::1],float32,float32[::1])")
def finish(mean: Array, high: Array, total: Array, factor_of_scores: Any, lse: Array) -> None:
    """Divide ``mean`` [rows, Dv] by the sums of weights; ``lse`` in natural logarithm. Rows without keys: 0, -inf."""
    for i in range(mean.shape[0]):
        row, factor = mean[i], _ONE / total[i] if total[i] != _ZERO else _ZERO
        for d in range(row.size):
            row[d] *= factor
        lse[i] = (high[i] * factor_of_scores + np.log2(total[i])) * _LN2 if total[i] != _ZERO else _LOWEST


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


def _gather(x: Array, spans: Array, out: Array) -> None:
    """The rows ``spans`` of ``x`` one behind the other."""
    n = 0
    for s in range(spans.shape[0]):
        for j in range(spans[s, 0], spans[s, 1]):
            source, target = x[j], out[n]
            for d in range(source.size):
                target[d] = source[d]
            n += 1


gather_32 = kernel("void(int32[:,::1],int64[:,::1],int32[:,::1])")(_gather)
gather_16 = kernel("void(int16[:,::1],int64[:,::1],int16[:,::1])")(_gather)
