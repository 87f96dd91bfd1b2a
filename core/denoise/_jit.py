"""Numba kernels: compiled on first use, cached where a cache can be kept, never breaking a command that cannot.

Plain ``nogil`` functions over row bands, run by a small thread pool: they compile in a fraction of the time that
numba's ``parallel=True`` takes, and each band writes its own memory, so results do not depend on the thread count.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
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


@njit(fastmath=FASTMATH, inline="always")
def exp_negative(x: Any) -> Any:
    """e to the x for float32 x <= 0, to float32 rounding; below -87 the smallest normal number instead of less.

    Range reduction x = n ln 2 + f, |f| <= ln 2 / 2, a polynomial for e^f, and 2^n written into the exponent bits:
    only operations that every vector unit has, so LLVM turns a loop over it into vector code without a maths library.
    """
    x = max(x, _LOWEST)
    n = np.int32(x * _LOG2_E - _HALF)  # truncation rounds to nearest because x <= 0
    f = x - np.float32(n) * _LN2  # one fused multiply-add: the product is not rounded
    p = ((((_C6 * f + _C5) * f + _C4) * f + _C3) * f + _C2) * f * f + f + _ONE
    return p * np.int32((n + _BIAS) << _MANTISSA).view(np.float32)


@functools.lru_cache(maxsize=2)
def _pool(threads: int, pid: int) -> ThreadPoolExecutor:
    """Threads of this process; ``pid`` is in the key because a forked child inherits none of them."""
    return ThreadPoolExecutor(threads, thread_name_prefix="attn")


def run(function: Callable[..., None], bands: Iterable[tuple[Any, ...]]) -> None:
    """Call ``function(*band)`` for each band, on as many threads as torch would use."""
    calls = list(bands)
    threads = min(torch.get_num_threads(), len(calls))
    if threads <= 1:
        for band in calls:
            function(*band)
        return
    pool = _pool(torch.get_num_threads(), os.getpid())
    futures = [pool.submit(function, *band) for band in calls[1:]]
    function(*calls[0])  # the calling thread works too
    for future in futures:
        future.result()


def bands(count: int, at_least: int = 1) -> list[tuple[int, int]]:
    """Split ``range(count)`` into one piece per thread, none shorter than ``at_least`` (but one piece at any rate)."""
    pieces = max(1, min(torch.get_num_threads(), count // max(1, at_least)))
    edges = [count * i // pieces for i in range(pieces + 1)]
    return list(itertools.pairwise(edges))
