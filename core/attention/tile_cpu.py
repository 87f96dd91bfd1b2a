"""A small matrix product in vector registers, over rows that lie anywhere: what kernels of gathered keys spend time in.

Numba has no vector type, and LLVM does not vectorise loops over gathered rows well, so the product is written as LLVM
IR: vectors of 16 float32, which LLVM splits where registers are shorter. Every sum runs in order of its index.

Where the processor multiplies pairs of bfloat16 (AVX512_BF16), there is a product of them whose sums are float32: twice
as fast as that of float32, and its results are not rounded to bfloat16, as those of PyTorch's are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from llvmlite import ir  # type: ignore[import-untyped]
from llvmlite.binding import llvm_version_info  # type: ignore[import-untyped]
from numba import types
from numba.core.registry import cpu_target
from numba.extending import intrinsic
from torch import Tensor
from torch.nn.functional import pad

from ..cpu import cpu

LANES = 16
_FLOAT, _INT, _INT32 = ir.FloatType(), ir.IntType(64), ir.IntType(32)
_VECTOR = ir.VectorType(_FLOAT, LANES)
_FUSED = f"llvm.fmuladd.v{LANES}f32"
_FIRST_LANE = ir.Constant(ir.VectorType(_INT32, LANES), [0] * LANES)
_BITS, _HALVES = ir.VectorType(_INT32, LANES), ir.VectorType(ir.IntType(16), LANES)


class _Bfloat(ir.Type):  # type: ignore[misc]
    """LLVM's bfloat, which llvmlite's builder does not know."""

    def __str__(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Bfloat)

    def __hash__(self) -> int:
        return hash(_Bfloat)


_PAIRS = ir.VectorType(_Bfloat(), 2 * LANES)
_FUSED_PAIRS = "llvm.x86.avx512bf16.dpbf16ps.512"


@functools.cache
def target_has(feature: str) -> bool:
    """Whether numba compiles for a processor with ``feature``, by LLVM's name; an instruction of it is fatal if not."""
    return f"+{feature}" in cpu_target.target_context.codegen().magic_tuple()[2].split(",")


def has_wide_registers() -> bool:
    """Whether a vector is one register, of which there are 32: the larger products need them for their sums."""
    return target_has("avx512f")


def multiplies_pairs() -> bool:
    """Whether products of bfloat16 pairs may be used here; LLVM before 16 had another type for them."""
    return cpu().avx512_bf16 and target_has("avx512bf16") and llvm_version_info[0] >= 16


def items_of(x: Tensor, *, pairs: bool) -> Tensor:
    """Vectors [..., D] as the kernels take them, contiguous: float32, or with ``pairs`` two bfloat16 as one int32."""
    if not pairs:
        return x.detach().float().contiguous()
    x = pad(x.detach(), (0, x.shape[-1] % 2)).contiguous()
    if x.storage_offset() % 2 or any(step % 2 for step in x.stride()[:-1]):  # a dimension of one may have any stride
        x = x.clone(memory_format=torch.contiguous_format)
    return x.view(torch.int32)


def _number(value: int) -> Any:
    return ir.Constant(_INT, value)


def _pointer(builder: Any, address: Any, item: Any, kind: Any, shift: int = 2) -> Any:
    """Pointer to the ``item``-th four bytes, or 2^shift bytes, after ``address``."""
    return builder.inttoptr(builder.add(address, builder.shl(item, _number(shift))), kind.as_pointer())


def broadcast(builder: Any, value: Any) -> Any:
    """A vector with ``value``, float32 or int32, in every lane."""
    undefined = ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined)
    return builder.shuffle_vector(builder.insert_element(undefined, value, _number(0)), undefined, _FIRST_LANE)


def _multiply_add(builder: Any, *, pairs: bool) -> Callable[[Any, Any, Any], Any]:
    """``(factor, column, total) -> total + factor * column`` by lanes, of float32 or of ``pairs`` of bfloat16."""
    operands = [_VECTOR, _PAIRS, _PAIRS] if pairs else [_VECTOR] * 3
    name = _FUSED_PAIRS if pairs else _FUSED
    fused = builder.module.declare_intrinsic(name, fnty=ir.FunctionType(_VECTOR, operands))

    def multiply_add(factor: Any, column: Any, total: Any) -> Any:
        if pairs:
            return builder.call(fused, (total, builder.bitcast(factor, _PAIRS), builder.bitcast(column, _PAIRS)))
        return builder.call(fused, (factor, column, total))

    return multiply_add


def _load_bfloat16(builder: Any, pointer: Any) -> Any:
    """16 bfloat16 numbers as float32: their upper halves."""
    bits = builder.zext(builder.load(pointer, align=2), _BITS)
    return builder.bitcast(builder.shl(bits, ir.Constant(_BITS, [16] * LANES)), _VECTOR)


def _product(
    rows: int, vectors: int, *, gathered: bool = False, fresh: bool = False, pairs: bool = False, half: bool = False
) -> Any:
    """``multiply(a, a_step, b, b_step, index, count, c, c_step)``: C[i] += sum over l < count of A_i[l a_step] B[l].

    ``a`` holds the addresses of A_0 .. A_(rows-1); ``b`` and ``c`` are those of B and C, which have 16 ``vectors``
    columns and whose rows are ``b_step`` and ``c_step`` items apart. B[l] is row l, or row ``index[l]`` if
    ``gathered``, then the address of int32 numbers. All are int64, all items float32, and count is at least 1.
    ``fresh``: C[i] = instead, and ``c`` holds the addresses of C_0 .. C_(rows-1) and ``c_step`` is of no use.
    ``pairs``: an item of A or B is two bfloat16 numbers; products are added in float32. ``half``: an item of B is one.
    """
    item_type, vector_type = (_INT32, _BITS) if pairs else (_FLOAT, _VECTOR)

    def build(
        typing: Any, a: Any, a_step: Any, b: Any, b_step: Any, index: Any, count: Any, c: Any, c_step: Any
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            a, a_step, b, b_step, index, count, c, c_step = arguments
            multiply_add = _multiply_add(builder, pairs=pairs)
            out = []
            for i in range(rows):
                base = builder.extract_value(c, i) if fresh else c
                row = _number(0) if fresh else builder.mul(c_step, _number(i))
                out += [_pointer(builder, base, builder.add(row, _number(j * LANES)), _VECTOR) for j in range(vectors)]
            zero = ir.Constant(_VECTOR, [0.0] * LANES)
            before = [zero if fresh else builder.load(p, align=4) for p in out]
            start, loop, end = builder.block, builder.append_basic_block(), builder.append_basic_block()
            builder.branch(loop)

            builder.position_at_end(loop)
            step = builder.phi(_INT)
            sums = [builder.phi(_VECTOR) for _ in out]
            number = step
            if gathered:
                number = builder.sext(builder.load(_pointer(builder, index, step, _INT32)), _INT)
            row = builder.mul(number, b_step)
            places = [builder.add(row, _number(j * LANES)) for j in range(vectors)]
            if half:
                columns = [_load_bfloat16(builder, _pointer(builder, b, place, _HALVES, 1)) for place in places]
            else:
                columns = [builder.load(_pointer(builder, b, place, vector_type), align=4) for place in places]
            item, after = builder.mul(step, a_step), []
            for i in range(rows):
                address = builder.extract_value(a, i)
                factor = broadcast(builder, builder.load(_pointer(builder, address, item, item_type)))
                after += [multiply_add(factor, columns[j], sums[i * vectors + j]) for j in range(vectors)]
            following = builder.add(step, _number(1))
            step.add_incoming(_number(0), start)
            step.add_incoming(following, loop)
            for phi, first, value in zip(sums, before, after, strict=True):
                phi.add_incoming(first, start)
                phi.add_incoming(value, loop)
            builder.cbranch(builder.icmp_signed("<", following, count), loop, end)

            builder.position_at_end(end)
            for p, value in zip(out, after, strict=True):
                builder.store(value, p, align=4)
            return context.get_dummy_value()

        addresses = types.UniTuple(types.int64, rows)  # type: ignore[no-untyped-call]
        target = addresses if fresh else types.int64
        return types.void(addresses, *[types.int64] * 5, target, types.int64), generate

    return intrinsic(build)


def _dots(rows: int, *, pairs: bool = False) -> Any:
    """``multiply(a, a_step, b, b_step, vectors, out)``: out[i] = A_i . B_i for i < rows, at least one vector each.

    Addresses, and int64 all; ``a`` and ``b`` are those of A_0 and B_0, whose followers lie so many bytes apart; a
    vector has 16 items as in ``_product``. Neighbouring rows, so that their sums are on the way at the same time.
    """
    vector_type = _BITS if pairs else _VECTOR

    def build(typing: Any, a: Any, a_step: Any, b: Any, b_step: Any, vectors: Any, out: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            a, a_step, b, b_step, vectors, out = arguments
            multiply_add = _multiply_add(builder, pairs=pairs)
            kind = ir.FunctionType(_FLOAT, [_FLOAT, _VECTOR])
            reduce = builder.module.declare_intrinsic(f"llvm.vector.reduce.fadd.v{LANES}f32", fnty=kind)
            lines = [
                [builder.add(x, builder.mul(y, _number(i))) for i in range(rows)] for x, y in ((a, a_step), (b, b_step))
            ]
            start, loop, end = builder.block, builder.append_basic_block(), builder.append_basic_block()
            builder.branch(loop)

            builder.position_at_end(loop)
            step = builder.phi(_INT)
            sums = [builder.phi(_VECTOR) for _ in range(rows)]
            item, after = builder.mul(step, _number(LANES)), []
            for x, y, total in zip(*lines, sums, strict=True):
                first, second = (builder.load(_pointer(builder, p, item, vector_type), align=4) for p in (x, y))
                after.append(multiply_add(first, second, total))
            following = builder.add(step, _number(1))
            step.add_incoming(_number(0), start)
            step.add_incoming(following, loop)
            for phi, value in zip(sums, after, strict=True):
                phi.add_incoming(ir.Constant(_VECTOR, [0.0] * LANES), start)
                phi.add_incoming(value, loop)
            builder.cbranch(builder.icmp_signed("<", following, vectors), loop, end)

            builder.position_at_end(end)
            for i, value in enumerate(after):
                dot = builder.call(reduce, (ir.Constant(_FLOAT, -0.0), value), fastmath=("reassoc",))
                builder.store(dot, _pointer(builder, out, _number(i), _FLOAT), align=4)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), generate

    return intrinsic(build)


def _prefetch(typing: Any, address: Any) -> Any:
    """Start to bring the cache line at ``address`` closer: chosen rows lie where no hardware prefetcher looks."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer(), *[_INT32] * 3])
        function = builder.module.declare_intrinsic("llvm.prefetch.p0", fnty=kind)
        line = builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())
        builder.call(function, (line, ir.Constant(_INT32, 0), ir.Constant(_INT32, 3), ir.Constant(_INT32, 1)))
        return context.get_dummy_value()

    return types.void(types.int64), generate


def _highest(typing: Any, address: Any) -> Any:
    """The greatest of the 16 float32 at ``address``, as an int32 of the same order, in which NaN is the greatest.

    What LLVM makes of the same as a loop takes as long as the products before it.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def every(value: int) -> Any:
            return ir.Constant(_BITS, [value] * LANES)

        kind = ir.FunctionType(_INT32, [_BITS])
        reduce = builder.module.declare_intrinsic(f"llvm.vector.reduce.smax.v{LANES}i32", fnty=kind)
        bits = builder.load(builder.inttoptr(arguments[0], _BITS.as_pointer()), align=4)
        magnitude = builder.and_(bits, every(0x7FFFFFFF))
        order = builder.xor(bits, builder.and_(builder.ashr(bits, every(31)), every(0x7FFFFFFF)))
        nan = builder.icmp_signed(">", magnitude, every(0x7F800000))
        return builder.call(reduce, (builder.select(nan, every(0x7FFFFFFF), order),))

    return types.int32(types.int64), generate


prefetch: Any = intrinsic(_prefetch)
highest: Any = intrinsic(_highest)
one_dot = _dots(1)
one_dot_of_pairs = _dots(1, pairs=True)
four_dots = _dots(4)
four_dots_of_pairs = _dots(4, pairs=True)
# as many sums as keep the multiply-add units busy and leave registers for the factors
eight_by_16 = _product(8, 1)
four_by_16 = _product(4, 1, gathered=True)
four_by_16_in_order = _product(4, 1)
four_by_64 = _product(4, 4, gathered=True)
one_by_16 = _product(1, 1, gathered=True)
one_by_128 = _product(1, 8, gathered=True)
one_by_16_of_bfloat16 = _product(1, 1, gathered=True, half=True)
one_by_128_of_bfloat16 = _product(1, 8, gathered=True, half=True)
eight_by_16_of_pairs = _product(8, 1, pairs=True)
four_by_16_of_pairs = _product(4, 1, pairs=True)
four_by_64_of_pairs = _product(4, 4, pairs=True)
new_four_by_16 = _product(4, 1, fresh=True)
new_eight_by_16 = _product(8, 1, fresh=True)
new_eight_by_32 = _product(8, 2, fresh=True)
new_eight_by_16_of_pairs = _product(8, 1, fresh=True, pairs=True)
new_eight_by_32_of_pairs = _product(8, 2, fresh=True, pairs=True)
