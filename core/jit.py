"""Numba kernels: compiled on first use, cached where a cache can be kept, never breaking a command that cannot.

Plain ``nogil`` functions over row bands, run by a small thread pool: they compile in a fraction of the time that
numba's ``parallel=True`` takes, and each band writes its own memory, so results do not depend on the thread count.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

# Everything LLVM needs to vectorise sums, but NaN and infinity keep their meaning.
FASTMATH = {"reassoc", "contract", "arcp", "nsz"}

_LOG2_E = np.float32(1.4426950408889634)
_LN2 = np.float32(0.6931471805599453)
_C2, _C3 = np.float32(0.5), np.float32(0.166666666)
_C4, _C5, _C6 = np.float32(4.1666456e-2), np.float32(8.3333069e-3), np.float32(1.3981999e-3)
_ONE, _HALF, _LOWEST = np.float32(1.0), np.float32(0.5), np.float32(-87.0)
_BIAS, _MANTISSA = np.int32(127), np.int32(23)


def _compile(function: Callable[..., Any], signature: str) -> Callable[..., Any]:
    """Compile, or load from the cache; without a cache when no directory is writable or the cached file is damaged."""
    try:
        return njit(signature, nogil=True, fastmath=FASTMATH, error_model="numpy", cache=True)(function)
    except (OSError, RuntimeError, EOFError, ImportError, ValueError):
        return njit(signature, nogil=True, fastmath=FASTMATH, error_model="numpy")(function)


def kernel(signature: str) -> Callable[[Callable[..., None]], Callable[[], Callable[..., None]]]:
    """Decorate a function so that calling its name returns the machine code, compiled at the first call."""

    def decorate(function: Callable[..., None]) -> Callable[[], Callable[..., None]]:
        return functools.cache(functools.partial(_compile, function, signature))

    return decorate


_D1, _D2, _D3 = np.float32(6.931472056e-01), np.float32(2.402264846e-01), np.float32(5.550329035e-02)
_D4, _D5, _D6 = np.float32(9.618373251e-03), np.float32(1.339984829e-03), np.float32(1.537070482e-04)
_LOWEST2, _ZERO = np.float32(-125.0), np.float32(0.0)
# Exponents are held within [lowest, 0] in this order of arguments: numba's max(x, y) is x unless y > x, so NaN stays.
# Above 0 they are by rounding alone: a fused ``a * b - c`` is exact where ``c`` is a rounded ``a * b``, and for scores
# of 1e10 the difference is thousands.


@njit(fastmath=FASTMATH, inline="always")
def exp2_negative(x: Any) -> Any:
    """2 to the x for float32 x <= 0, to float32 rounding; below -125 that power instead of less.

    As ``exp_negative``, without the products by log2 e and ln 2, and with 2^n added to the exponent bits: a third fewer
    operations on the multiply-add units, which the attention kernels wait for.
    """
    x = min(max(x, _LOWEST2), _ZERO)
    n = np.int32(x - _HALF)  # truncation rounds to nearest because x <= 0
    f = x - np.float32(n)
    p = (((((_D6 * f + _D5) * f + _D4) * f + _D3) * f + _D2) * f + _D1) * f + _ONE
    return np.int32(np.float32(p).view(np.int32) + (n << _MANTISSA)).view(np.float32)


@njit(fastmath=FASTMATH, inline="always")
def exp_negative(x: Any) -> Any:
    """e to the x for float32 x <= 0, to float32 rounding; below -87 the smallest normal number instead of less.

    Range reduction x = n ln 2 + f, |f| <= ln 2 / 2, a polynomial for e^f, and 2^n written into the exponent bits:
    only operations that every vector unit has, so LLVM turns a loop over it into vector code without a maths library.
    """
    x = min(max(x, _LOWEST), _ZERO)
    n = np.int32(x * _LOG2_E - _HALF)  # truncation rounds to nearest because x <= 0
    f = x - np.float32(n) * _LN2  # one fused multiply-add: the product is not rounded
    p = ((((_C6 * f + _C5) * f + _C4) * f + _C3) * f + _C2) * f * f + f + _ONE
    return p * np.int32((n + _BIAS) << _MANTISSA).view(np.float32)
