"""A small matrix product in vector registers, over rows that lie anywhere: what kernels of gathered keys spend time in.

Numba has no vector type, and LLVM does not vectorise loops over gathered rows well, so the product is written as LLVM
IR: vectors of 16 float32, which LLVM splits where registers are shorter. Every sum runs in order of its index.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

LANES = 16
_FLOAT, _INT, _INT32 = ir.FloatType(), ir.IntType(64), ir.IntType(32)
_VECTOR = ir.VectorType(_FLOAT, LANES)
_FUSED = f"llvm.fmuladd.v{LANES}f32"
_FIRST_LANE = ir.Constant(ir.VectorType(_INT32, LANES), [0] * LANES)


def _number(value: int) -> Any:
    return ir.Constant(_INT, value)


def _pointer(builder: Any, address: Any, item: Any, kind: Any) -> Any:
    """Pointer to the ``item``-th four bytes after ``address``."""
    return builder.inttoptr(builder.add(address, builder.shl(item, _number(2))), kind.as_pointer())


def _broadcast(builder: Any, value: Any) -> Any:
    """A vector with ``value`` in every lane."""
    undefined = ir.Constant(_VECTOR, ir.Undefined)
    return builder.shuffle_vector(builder.insert_element(undefined, value, _number(0)), undefined, _FIRST_LANE)


def _product(rows: int, vectors: int, gathered: bool) -> Any:
    """``multiply(a, a_step, b, b_step, index, count, c, c_step)``: C[i] += sum over l < count of A_i[l a_step] B[l].

    ``a`` holds the addresses of A_0 .. A_(rows-1); ``b`` and ``c`` are those of B and C, which have 16 ``vectors``
    columns and whose rows are ``b_step`` and ``c_step`` items apart. B[l] is row l, or row ``index[l]`` if
    ``gathered``, then the address of int32 numbers. All are int64, all items float32, and count is at least 1.
    """

    def build(
        typing: Any, a: Any, a_step: Any, b: Any, b_step: Any, index: Any, count: Any, c: Any, c_step: Any
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            a, a_step, b, b_step, index, count, c, c_step = arguments
            fused = builder.module.declare_intrinsic(_FUSED, fnty=ir.FunctionType(_VECTOR, [_VECTOR] * 3))
            out = []
            for i in range(rows):
                row = builder.mul(c_step, _number(i))
                out += [_pointer(builder, c, builder.add(row, _number(j * LANES)), _VECTOR) for j in range(vectors)]
            before = [builder.load(p, align=4) for p in out]
            start, loop, end = builder.block, builder.append_basic_block(), builder.append_basic_block()
            builder.branch(loop)

            builder.position_at_end(loop)
            step = builder.phi(_INT)
            sums = [builder.phi(_VECTOR) for _ in out]
            number = step
            if gathered:
                number = builder.sext(builder.load(_pointer(builder, index, step, _INT32)), _INT)
            row = builder.mul(number, b_step)
            columns = [
                builder.load(_pointer(builder, b, builder.add(row, _number(j * LANES)), _VECTOR), align=4)
                for j in range(vectors)
            ]
            item, after = builder.mul(step, a_step), []
            for i in range(rows):
                address = builder.extract_value(a, i)
                factor = _broadcast(builder, builder.load(_pointer(builder, address, item, _FLOAT)))
                after += [builder.call(fused, (factor, columns[j], sums[i * vectors + j])) for j in range(vectors)]
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
        return types.void(addresses, *[types.int64] * 7), generate

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


prefetch: Any = intrinsic(_prefetch)
# as many sums as keep the multiply-add units busy and leave registers for the factors
eight_by_16 = _product(8, 1, False)
eight_by_32 = _product(8, 2, False)
four_by_16 = _product(4, 1, True)
four_by_64 = _product(4, 4, True)
