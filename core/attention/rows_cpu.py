"""Softmax attention of some rows over a list of keys, in vector registers: the inner loops of HiP and Superlinear.

The scores of all rows and keys of a tile (tens of KB) stay in the second cache, so softmax needs no running maximum.
They are computed along rows, 16 in a register, which is why a tile of rows is padded to a multiple of 16. Keys and
queries are float32, or pairs of bfloat16 (``tile_cpu.multiplies_pairs``), whose products are added in float32; weights
are then rounded to bfloat16 as PyTorch's attention rounds them, and their sums are those of the rounded ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload

from ..jit import FASTMATH, exp2_negative
from .tile_cpu import (
    LANES,
    four_by_16,
    four_by_16_of_pairs,
    four_by_64,
    four_by_64_of_pairs,
    has_wide_registers,
    new_eight_by_16,
    new_eight_by_16_of_pairs,
    new_eight_by_32,
    new_eight_by_32_of_pairs,
    new_four_by_16,
    prefetch,
)

Array = np.ndarray[Any, Any]
HIDDEN = np.float32(-np.inf)
"""The score of a key that a row does not see."""
ROOM = 8
"""``keys`` of ``multiply``, and its scores, need so many places behind the last key."""
_ZERO = np.float32(0)
_KEYS = 32  # values of so many keys at a time: at D = 128 half of a first-level cache
_ROUND, _SIXTEEN, _UPPER = np.uint32(0x8000), np.uint32(16), np.uint32(0xFFFF0000)


def _multiply_tile(k: Any, a: Any, items: int, b: int, columns: int, rows: int, c: Any) -> None:
    """Products of the eight keys at ``a`` with ``columns`` rows of queries at ``b``, to the addresses ``c``."""


@overload(_multiply_tile, strict=False)
def _multiply_tile_for(k: Any, a: Any, items: int, b: int, columns: int, rows: int, c: Any) -> Any:
    wide, narrow = new_eight_by_32, new_eight_by_16
    if k.dtype == types.int32:
        wide, narrow = new_eight_by_32_of_pairs, new_eight_by_16_of_pairs

    def by_halves(k: Any, a: Any, items: int, b: int, columns: int, rows: int, c: Any) -> None:
        for half in range(0, 4 * columns, 4 * LANES):
            low, high = (c[0] + half, c[1] + half, c[2] + half, c[3] + half), (
                c[4] + half, c[5] + half, c[6] + half, c[7] + half,
            )  # fmt: skip
            new_four_by_16(a[:4], 1, b + half, rows, 0, items, low, 0)
            new_four_by_16(a[4:], 1, b + half, rows, 0, items, high, 0)

    def multiply_tile(k: Any, a: Any, items: int, b: int, columns: int, rows: int, c: Any) -> None:
        if columns == 2 * LANES:
            wide(a, 1, b, rows, 0, items, c, 0)
        else:
            narrow(a, 1, b, rows, 0, items, c, 0)

    return multiply_tile if has_wide_registers() else by_halves


@njit(error_model="numpy")
def multiply(k: Array, keys: Array, n: int, queries: Array, scores: Array) -> None:
    """``scores[j, r]`` = k[keys[j]] . queries[:, r] for j < n, float32.

    k [Lk, items] and queries [items, rows] hold float32, or two bfloat16 as one int32; keys int32 with ``ROOM`` more
    places, scores [>= n + ROOM, rows]; rows are a multiple of 16.
    """
    items, rows = queries.shape
    a, pitch = k.ctypes.data, 4 * items
    for i in range(n, n + ROOM - 1):
        keys[i] = keys[n - 1]
    for i in range(0, n, 8):
        for j in range(i + 8, min(i + 16, n)):
            for line in range(0, pitch, 64):
                prefetch(a + keys[j] * pitch + line)
        addresses = (
            a + keys[i] * pitch, a + keys[i + 1] * pitch, a + keys[i + 2] * pitch, a + keys[i + 3] * pitch,
            a + keys[i + 4] * pitch, a + keys[i + 5] * pitch, a + keys[i + 6] * pitch, a + keys[i + 7] * pitch,
        )  # fmt: skip
        for tile in range(0, rows, 2 * LANES):
            c, line = scores.ctypes.data + 4 * (i * rows + tile), 4 * rows
            out = (c, c + line, c + 2 * line, c + 3 * line, c + 4 * line, c + 5 * line, c + 6 * line, c + 7 * line)
            columns = min(2 * LANES, rows - tile)
            _multiply_tile(k, addresses, items, queries.ctypes.data + 4 * tile, columns, rows, out)


@njit(fastmath=FASTMATH, error_model="numpy")
def weigh(scores: Array, n: int, factor: Any, top: Array) -> None:
    """Scores [n, rows] to weights 2^(factor (score - top)), 0 where ``HIDDEN``; ``top`` float32 [rows].

    A row that sees nothing has a ``top`` of minus infinity and weights of 0.
    """
    for tile in range(0, scores.shape[1], LANES):
        high = top[tile : tile + LANES]
        for r in range(LANES):
            high[r] = HIDDEN
        for j in range(0, n, 4):  # four at a time: each waits for what the one before it left in memory
            a, b = scores[j, tile : tile + LANES], scores[min(j + 1, n - 1), tile : tile + LANES]
            c, d = scores[min(j + 2, n - 1), tile : tile + LANES], scores[min(j + 3, n - 1), tile : tile + LANES]
            for r in range(LANES):
                high[r] = max(high[r], max(max(a[r], b[r]), max(c[r], d[r])))
        for j in range(n):
            line = scores[j, tile : tile + LANES]
            for r in range(LANES):
                weight = exp2_negative((line[r] - high[r]) * factor)
                line[r] = _ZERO if line[r] == HIDDEN else weight


@njit(fastmath=FASTMATH, error_model="numpy")
def _sum_weights(weights: Array, n: int, total: Array) -> None:
    """``total`` [rows] of weights [>= n + 3, rows], whose rows behind the n-th become 0."""
    weights[n : n + 3] = _ZERO
    for tile in range(0, weights.shape[1], LANES):
        sums = total[tile : tile + LANES]
        for r in range(LANES):
            sums[r] = _ZERO
        for j in range(0, n, 4):
            a, b = weights[j, tile : tile + LANES], weights[j + 1, tile : tile + LANES]
            c, d = weights[j + 2, tile : tile + LANES], weights[j + 3, tile : tile + LANES]
            for r in range(LANES):
                sums[r] += (a[r] + b[r]) + (c[r] + d[r])


@njit(error_model="numpy")
def _pair_weights(weights: Array, n: int, pairs: Array) -> None:
    """Weights [> n, rows], rounded to bfloat16 in place, and those of two keys as one int32: [ceil(n / 2), rows]."""
    bits, rows = weights.view(np.uint32), weights.shape[1]
    weights[n] = _ZERO
    for j in range(0, n, 2):
        first, second, both = bits[j], bits[j + 1], pairs[j >> 1]
        for r in range(rows):
            a, b = np.uint32((first[r] + _ROUND) & _UPPER), np.uint32((second[r] + _ROUND) & _UPPER)
            first[r], second[r] = a, b
            both[r] = np.int32((a >> _SIXTEEN) | b)


@njit(error_model="numpy")
def _pair_values(v: Array, keys: Array, start: int, stop: int, pairs: Array) -> None:
    """Values [Lk, Dv], bits of bfloat16, of the keys start, .., stop - 1 by twos: [ceil((stop - start) / 2), Dv]."""
    for j in range(start, stop, 2):
        first, second, both = v[keys[j]], v[keys[j + 1]], pairs[(j - start) >> 1]
        for d in range(v.shape[1]):
            both[d] = np.int32(np.uint32(first[d]) | (np.uint32(second[d]) << _SIXTEEN))


@njit(error_model="numpy")
def _prefetch_values(v: Array, keys: Array, start: int, stop: int) -> None:
    pitch = v.shape[1] * v.itemsize
    for j in range(start, stop):
        for line in range(0, pitch, 64):
            prefetch(v.ctypes.data + keys[j] * pitch + line)


def sum_values(weights: Array, v: Array, keys: Array, n: int, total: Array, spare: Array, result: Array) -> None:
    """``result[r]`` [rows, Dv] = sum over j < n of weights[j, r] v[keys[j]], and ``total[r]`` that of the weights.

    ``keys`` as ``multiply`` leaves them. v is float32 or the bits of bfloat16, uint16; Dv a multiple of 16. Weights of
    the latter are rounded to bfloat16 first. ``weights`` has ``ROOM`` more rows than n; ``spare``, int32
    [>= (n + 1) / 2, rows], is for their pairs.
    """


@overload(sum_values, strict=False)
def _sum_values_for(weights: Any, v: Any, keys: Any, n: int, total: Any, spare: Any, result: Any) -> Any:
    wide = has_wide_registers()

    def float32(weights: Any, v: Any, keys: Any, n: int, total: Any, spare: Any, result: Any) -> None:
        rows, dim = result.shape
        _sum_weights(weights, n, total)
        result[:] = _ZERO
        for i in range(0, n, _KEYS):
            some, index = min(_KEYS, n - i), keys.ctypes.data + 4 * i
            for r in range(0, rows, 4):
                ahead = i + _KEYS + r * _KEYS // rows  # a share of the next values with every four rows
                _prefetch_values(v, keys, ahead, min(ahead + 4 * _KEYS // rows, n))
                weight = weights.ctypes.data + 4 * (i * rows + r)
                four = (weight, weight + 4, weight + 8, weight + 12)
                d = 0
                while wide and d + 64 <= dim:
                    target = result.ctypes.data + 4 * (r * dim + d)
                    four_by_64(four, rows, v.ctypes.data + 4 * d, dim, index, some, target, dim)
                    d += 64
                while d < dim:
                    target = result.ctypes.data + 4 * (r * dim + d)
                    four_by_16(four, rows, v.ctypes.data + 4 * d, dim, index, some, target, dim)
                    d += 16

    def bfloat16(weights: Any, v: Any, keys: Any, n: int, total: Any, spare: Any, result: Any) -> None:
        rows, dim = result.shape
        _pair_weights(weights, n, spare)
        _sum_weights(weights, n, total)
        values = np.empty((_KEYS // 2, dim), np.int32)
        result[:] = _ZERO
        for i in range(0, n, _KEYS):
            stop = min(i + _KEYS, n)
            _prefetch_values(v, keys, stop, min(stop + _KEYS, n))
            _pair_values(v, keys, i, stop, values)
            some = (stop - i + 1) >> 1
            for r in range(0, rows, 4):
                weight = spare.ctypes.data + 4 * ((i >> 1) * rows + r)
                four = (weight, weight + 4, weight + 8, weight + 12)
                d = 0
                while d + 64 <= dim:
                    target = result.ctypes.data + 4 * (r * dim + d)
                    four_by_64_of_pairs(four, rows, values.ctypes.data + 4 * d, dim, 0, some, target, dim)
                    d += 64
                while d < dim:
                    target = result.ctypes.data + 4 * (r * dim + d)
                    four_by_16_of_pairs(four, rows, values.ctypes.data + 4 * d, dim, 0, some, target, dim)
                    d += 16

    return bfloat16 if v.dtype == types.uint16 else float32
