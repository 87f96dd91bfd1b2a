"""What a row of scores has chosen, packed together: numba functions for the kernels of the indexer.

Where numba compiles for AVX-512, sixteen scores are compared and their places packed in registers, five times as fast
as one by one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.extending import intrinsic

from ...jit import FASTMATH
from ..tile_cpu import LANES, broadcast, target_has

Floats = np.ndarray[Any, np.dtype[np.float32]]
Ints = np.ndarray[Any, np.dtype[np.int32]]
_FLOAT, _INT32 = ir.FloatType(), ir.IntType(32)
_LANES = {_FLOAT: ir.VectorType(_FLOAT, LANES), _INT32: ir.VectorType(_INT32, LANES)}
_MASK, _BITS = ir.VectorType(ir.IntType(1), LANES), ir.IntType(LANES)


def _load(builder: Any, address: Any) -> Any:
    return builder.load(builder.inttoptr(address, _LANES[_FLOAT].as_pointer()), align=4)


def _pack(builder: Any, bits: Any, vector: Any, address: Any) -> None:
    """The lanes of ``vector`` whose bit is set, one behind the other, to ``address``; all 16 lanes are written."""
    kind = vector.type
    name = f"llvm.x86.avx512.mask.compress.v{LANES}{kind.element.intrinsic_name}"
    function = builder.module.declare_intrinsic(name, fnty=ir.FunctionType(kind, [kind, kind, _MASK]))
    mask = builder.bitcast(builder.trunc(bits, _BITS), _MASK)
    packed = builder.call(function, (vector, ir.Constant(kind, ir.Undefined), mask))
    builder.store(packed, builder.inttoptr(address, kind.as_pointer()), align=4)


def _build_at_least(typing: Any, address: Any, threshold: Any) -> Any:
    """Bit i: whether the i-th of 16 floats is at least the threshold. int32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        mask = builder.fcmp_ordered(">=", _load(builder, arguments[0]), broadcast(builder, arguments[1]))
        return builder.zext(builder.bitcast(mask, _BITS), _INT32)

    return types.int32(types.int64, types.float32), generate


def _build_count(typing: Any, bits: Any) -> Any:
    """How many bits are set. int32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.int32(types.int32), generate


def _build_store_numbers(typing: Any, bits: Any, first: Any, address: Any) -> Any:
    """The numbers first + i of the bits i that are set, as int32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits, first, address = arguments
        numbers = builder.add(broadcast(builder, first), ir.Constant(_LANES[_INT32], list(range(LANES))))
        _pack(builder, bits, numbers, address)
        return context.get_dummy_value()

    return types.void(types.int32, types.int32, types.int64), generate


def _build_store_floats(typing: Any, bits: Any, source: Any, address: Any) -> Any:
    """The floats source[i] of the bits i that are set."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _pack(builder, arguments[0], _load(builder, arguments[1]), arguments[2])
        return context.get_dummy_value()

    return types.void(types.int32, types.int64, types.int64), generate


_at_least: Any = intrinsic(_build_at_least)
_count: Any = intrinsic(_build_count)
_store_numbers: Any = intrinsic(_build_store_numbers)
_store_floats: Any = intrinsic(_build_store_floats)


# Arrays come whole, with places in them: every slice of an array is counted by a locked instruction.


@njit(fastmath=FASTMATH, error_model="numpy")
def emit_one_by_one(
    x: Floats, start: int, stop: int, hi: Any, first: Any, numbers: Ints, n: Any, values: Floats, source: int,
    out: Floats, target: int,
) -> Any:  # fmt: skip
    """Write the tokens first, first + 1, ... of those among x[start:stop] that are >= hi to ``numbers`` from place n.

    Returns the place behind them. With ``out`` of any size, the values[source:] of these tokens go to out[target + n:].
    All three need room for 16 more. Every token is written, and the end moves on only behind those that stay: a branch
    would often be mispredicted.
    """
    before, at = np.uint64(n), np.uint64(n)
    for j in range(stop - start):
        numbers[at] = first + j
        at += np.uint64(x[np.uint64(start + j)] >= hi)
    if out.size > 0:
        for i in range(before, at):
            out[np.uint64(target) + i] = values[np.uint64(source + numbers[i] - first)]
    return np.int64(at)


@njit(fastmath=FASTMATH, error_model="numpy")
def emit_packed(
    x: Floats, start: int, stop: int, hi: Any, first: Any, numbers: Ints, n: Any, values: Floats, source: int,
    out: Floats, target: int,
) -> Any:  # fmt: skip
    """As ``emit_one_by_one``, sixteen at a time."""
    for j in range(0, stop - start, LANES):
        bits = _at_least(x.ctypes.data + 4 * (start + j), hi)
        if stop - start - j < LANES:
            bits &= np.int32((1 << (stop - start - j)) - 1)
        _store_numbers(bits, np.int32(first + j), numbers.ctypes.data + 4 * n)
        if out.size > 0:
            _store_floats(bits, values.ctypes.data + 4 * (source + j), out.ctypes.data + 4 * (target + n))
        n += _count(bits)
    return n


emit = emit_packed if target_has("avx512f") else emit_one_by_one


@njit(fastmath=FASTMATH, error_model="numpy")
def emit_ties(
    x: Floats, start: int, stop: int, hi: Any, lo: Any, ties: Any, first: Any, numbers: Ints, n: Any, values: Floats,
    source: int, out: Floats, target: int,
) -> tuple[Any, Any]:  # fmt: skip
    """As ``emit``, and the first ``ties`` tokens whose x equals lo; the place behind them, and the ties left."""
    before, at = np.uint64(n), np.uint64(n)
    for j in range(stop - start):
        score = x[np.uint64(start + j)]
        tie = ties > 0 and score == lo
        numbers[at] = first + j
        at += np.uint64(tie or score >= hi)
        ties -= np.int64(tie)
    if out.size > 0:
        for i in range(before, at):
            out[np.uint64(target) + i] = values[np.uint64(source + numbers[i] - first)]
    return np.int64(at), ties
