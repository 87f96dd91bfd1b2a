"""What the kernels over softmax attention share: one step of the online softmax, what a query sees, tiles of rows.

Papers: arXiv 1805.02867 (online softmax), arXiv 2205.14135, 2307.08691 (block by block). Nothing is launched from here.
"""

# The arguments of Triton functions have no Python types.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
from __future__ import annotations

import math

import triton
import triton.language as tl

LOG2E = math.log2(math.e)
"""Scores times this are in units of log 2, for the chip's exp2."""


def columns_of(width: int) -> int:
    """Columns of a tile: a power of two that a matrix instruction takes."""
    return max(16, int(triton.next_power_of_2(width)))


@triton.jit
def load_rows(ptr, row, real, width: tl.constexpr, columns: tl.constexpr):
    """Rows ``row`` [R] of a contiguous matrix [*, width] as [R, columns]: 0 where not ``real`` and beyond ``width``."""
    column = tl.arange(0, columns)
    mask = real[:, None]
    if columns != width:
        mask = mask & (column < width)[None, :]
    return tl.load(ptr + row[:, None] * width + column[None, :], mask=mask, other=0.0)


@triton.jit
def store_rows(ptr, row, real, value, width: tl.constexpr, columns: tl.constexpr):
    """The opposite of ``load_rows``, in the dtype of the matrix."""
    column = tl.arange(0, columns)
    mask = real[:, None]
    if columns != width:
        mask = mask & (column < width)[None, :]
    tl.store(ptr + row[:, None] * width + column[None, :], value.to(ptr.dtype.element_ty), mask=mask)


@triton.jit
def seen(position, key, window, num_sinks, causal: tl.constexpr, windowed: tl.constexpr):
    """Whether the query at ``position`` sees ``key`` (they broadcast): up to itself where causal, and of what is more
    than ``window`` keys back only the first ``num_sinks``.
    """
    sight = key >= 0
    if causal:
        sight = sight & (key <= position)
    if windowed:
        sight = sight & ((key > position - window) | (key < num_sinks))
    return sight


@triton.jit
def online_softmax(scores, high, total):
    """One step over scores [R, n] in units of log 2, minus infinity where hidden.

    Returns the weights [R, n], the factor [R] by which what was summed before fades, the new maximum and the new total.
    A row that has seen no key yet keeps a maximum of minus infinity and a total of 0. NaN among the scores stays NaN.
    """
    new = tl.maximum(high, tl.max(scores, 1))
    base = tl.where(new == float("-inf"), 0.0, new)
    weights = tl.exp2(scores - base[:, None])
    fade = tl.exp2(high - base)
    return weights, fade, new, total * fade + tl.sum(weights, 1)
