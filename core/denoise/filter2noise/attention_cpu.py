"""Fused attention of head width 8 for the CPU: numba kernels. Layout [8, N], so that the inner loop runs over tokens.

Written out for eight components on purpose: scalars stay in registers and every inner loop is a set of plain sums,
which LLVM vectorises without having to prove that arrays do not overlap.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit

from ...jit import FASTMATH, exp2_negative, kernel
from ...threads import bands, run

Array = np.ndarray[Any, np.dtype[np.float32]]
_TILE = 384  # keys and values of a tile: 2 x 8 x 384 x 4 bytes = 24 KB, three quarters of a first-level cache
_ZERO, _ONE = np.float32(0), np.float32(1)


@njit(fastmath=FASTMATH, error_model="numpy")
def _fill(tile: Array, a: Array, b: Array, first: int, last: int) -> None:
    """Columns first..last-1 of ``a`` and ``b`` [8, N] into rows 0-7 and 8-15; a loop compiles faster than slices."""
    for d in range(8):
        for i in range(last - first):
            tile[d, i] = a[d, first + i]
            tile[8 + d, i] = b[d, first + i]


@njit(fastmath=FASTMATH, error_model="numpy")
def _clear(a: Array, start: int, stop: int) -> None:
    """Zero columns start..stop-1 of ``a`` [8, N]."""
    for d in range(8):
        for i in range(start, stop):
            a[d, i] = _ZERO


@kernel(
    "void(float32[:,::1],float32[:,::1],float32[:,::1],float32[::1],float32[:,::1],float32[::1],float32[:,::1],int64,int64)"
)
def _forward(
    q: Array, k: Array, v: Array, bound: Array, out: Array, lse: Array, tile: Array, start: int, stop: int
) -> None:
    """Rows start..stop-1 of ``out``, means of v by weights 2^(q^T k), and of ``lse``, log2 of the weights' sums."""
    n = k.shape[1]
    for i in range(start, stop):
        lse[i] = _ZERO
        for d in range(8):
            out[d, i] = _ZERO
    for first in range(0, n, _TILE):
        last = min(first + _TILE, n)
        _fill(tile, k, v, first, last)
        kt0, kt1, kt2, kt3, kt4, kt5, kt6, kt7 = tile[0], tile[1], tile[2], tile[3], tile[4], tile[5], tile[6], tile[7]
        vt0, vt1, vt2, vt3, vt4, vt5, vt6, vt7 = (
            tile[8],
            tile[9],
            tile[10],
            tile[11],
            tile[12],
            tile[13],
            tile[14],
            tile[15],
        )
        for i in range(start, stop):
            m = bound[i]
            q0, q1, q2, q3 = q[0, i], q[1, i], q[2, i], q[3, i]
            q4, q5, q6, q7 = q[4, i], q[5, i], q[6, i], q[7, i]
            total = o0 = o1 = o2 = o3 = o4 = o5 = o6 = o7 = _ZERO
            for j in range(last - first):
                s = q0 * kt0[j] + q1 * kt1[j] + q2 * kt2[j] + q3 * kt3[j]
                s += q4 * kt4[j] + q5 * kt5[j] + q6 * kt6[j] + q7 * kt7[j]
                e = exp2_negative(s - m)
                total += e
                o0 += e * vt0[j]
                o1 += e * vt1[j]
                o2 += e * vt2[j]
                o3 += e * vt3[j]
                o4 += e * vt4[j]
                o5 += e * vt5[j]
                o6 += e * vt6[j]
                o7 += e * vt7[j]
            lse[i] += total
            out[0, i] += o0
            out[1, i] += o1
            out[2, i] += o2
            out[3, i] += o3
            out[4, i] += o4
            out[5, i] += o5
            out[6, i] += o6
            out[7, i] += o7
    for i in range(start, stop):
        scale = _ONE / lse[i]
        for d in range(8):
            out[d, i] *= scale
        lse[i] = bound[i] + np.float32(np.log2(lse[i]))


@kernel(
    "void(float32[:,::1],float32[:,::1],float32[:,::1],float32[:,::1],float32[::1],float32[::1],"
    "float32[:,::1],float32[:,::1],int64,int64)"
)
def _backward_queries(
    q: Array,
    k: Array,
    v: Array,
    grad: Array,
    lse: Array,
    delta: Array,
    grad_q: Array,
    tile: Array,
    start: int,
    stop: int,
) -> None:
    """grad_q_i = sum_j P_ij (grad_i . v_j - delta_i) k_j with P_ij = 2^(q_i . k_j - lse_i)."""
    n = k.shape[1]
    _clear(grad_q, start, stop)
    for first in range(0, n, _TILE):
        last = min(first + _TILE, n)
        _fill(tile, k, v, first, last)
        kt0, kt1, kt2, kt3, kt4, kt5, kt6, kt7 = tile[0], tile[1], tile[2], tile[3], tile[4], tile[5], tile[6], tile[7]
        vt0, vt1, vt2, vt3, vt4, vt5, vt6, vt7 = (
            tile[8],
            tile[9],
            tile[10],
            tile[11],
            tile[12],
            tile[13],
            tile[14],
            tile[15],
        )
        for i in range(start, stop):
            m, t = lse[i], delta[i]
            q0, q1, q2, q3 = q[0, i], q[1, i], q[2, i], q[3, i]
            q4, q5, q6, q7 = q[4, i], q[5, i], q[6, i], q[7, i]
            g0, g1, g2, g3 = grad[0, i], grad[1, i], grad[2, i], grad[3, i]
            g4, g5, g6, g7 = grad[4, i], grad[5, i], grad[6, i], grad[7, i]
            a0 = a1 = a2 = a3 = a4 = a5 = a6 = a7 = _ZERO
            for j in range(last - first):
                s = q0 * kt0[j] + q1 * kt1[j] + q2 * kt2[j] + q3 * kt3[j]
                s += q4 * kt4[j] + q5 * kt5[j] + q6 * kt6[j] + q7 * kt7[j]
                c = g0 * vt0[j] + g1 * vt1[j] + g2 * vt2[j] + g3 * vt3[j]
                c += g4 * vt4[j] + g5 * vt5[j] + g6 * vt6[j] + g7 * vt7[j]
                e = exp2_negative(s - m) * (c - t)
                a0 += e * kt0[j]
                a1 += e * kt1[j]
                a2 += e * kt2[j]
                a3 += e * kt3[j]
                a4 += e * kt4[j]
                a5 += e * kt5[j]
                a6 += e * kt6[j]
                a7 += e * kt7[j]
            grad_q[0, i] += a0
            grad_q[1, i] += a1
            grad_q[2, i] += a2
            grad_q[3, i] += a3
            grad_q[4, i] += a4
            grad_q[5, i] += a5
            grad_q[6, i] += a6
            grad_q[7, i] += a7


@kernel(
    "void(float32[:,::1],float32[:,::1],float32[:,::1],float32[:,::1],float32[::1],float32[::1],"
    "float32[:,::1],float32[:,::1],float32[:,::1],int64,int64)"
)
def _backward_keys(
    q: Array,
    k: Array,
    v: Array,
    grad: Array,
    lse: Array,
    delta: Array,
    grad_k: Array,
    grad_v: Array,
    tile: Array,
    start: int,
    stop: int,
) -> None:
    """grad_k_j = sum_i P_ij (grad_i . v_j - delta_i) q_i and grad_v_j = sum_i P_ij grad_i."""
    n = q.shape[1]
    _clear(grad_k, start, stop)
    _clear(grad_v, start, stop)
    for first in range(0, n, _TILE):
        last = min(first + _TILE, n)
        _fill(tile, q, grad, first, last)
        qt0, qt1, qt2, qt3, qt4, qt5, qt6, qt7 = tile[0], tile[1], tile[2], tile[3], tile[4], tile[5], tile[6], tile[7]
        gt0, gt1, gt2, gt3, gt4, gt5, gt6, gt7 = (
            tile[8],
            tile[9],
            tile[10],
            tile[11],
            tile[12],
            tile[13],
            tile[14],
            tile[15],
        )
        for i in range(last - first):
            tile[16, i], tile[17, i] = lse[first + i], delta[first + i]
        lt, dt = tile[16], tile[17]
        for j in range(start, stop):
            k0, k1, k2, k3 = k[0, j], k[1, j], k[2, j], k[3, j]
            k4, k5, k6, k7 = k[4, j], k[5, j], k[6, j], k[7, j]
            v0, v1, v2, v3 = v[0, j], v[1, j], v[2, j], v[3, j]
            v4, v5, v6, v7 = v[4, j], v[5, j], v[6, j], v[7, j]
            a0 = a1 = a2 = a3 = a4 = a5 = a6 = a7 = _ZERO
            b0 = b1 = b2 = b3 = b4 = b5 = b6 = b7 = _ZERO
            for i in range(last - first):
                s = k0 * qt0[i] + k1 * qt1[i] + k2 * qt2[i] + k3 * qt3[i]
                s += k4 * qt4[i] + k5 * qt5[i] + k6 * qt6[i] + k7 * qt7[i]
                c = v0 * gt0[i] + v1 * gt1[i] + v2 * gt2[i] + v3 * gt3[i]
                c += v4 * gt4[i] + v5 * gt5[i] + v6 * gt6[i] + v7 * gt7[i]
                p = exp2_negative(s - lt[i])
                e = p * (c - dt[i])
                a0 += e * qt0[i]
                a1 += e * qt1[i]
                a2 += e * qt2[i]
                a3 += e * qt3[i]
                a4 += e * qt4[i]
                a5 += e * qt5[i]
                a6 += e * qt6[i]
                a7 += e * qt7[i]
                b0 += p * gt0[i]
                b1 += p * gt1[i]
                b2 += p * gt2[i]
                b3 += p * gt3[i]
                b4 += p * gt4[i]
                b5 += p * gt5[i]
                b6 += p * gt6[i]
                b7 += p * gt7[i]
            for d, a, b in (
                (0, a0, b0),
                (1, a1, b1),
                (2, a2, b2),
                (3, a3, b3),
                (4, a4, b4),
                (5, a5, b5),
                (6, a6, b6),
                (7, a7, b7),
            ):
                grad_k[d, j] += a
                grad_v[d, j] += b


def forward(q: Array, k: Array, v: Array, bound: Array, out: Array, lse: Array) -> None:
    """q, k, v, out [B, 8, N], bound, lse [B, N]; writes ``out`` and ``lse``. ``q`` carries the scale and log2 e."""
    _each(_forward(), (q, k, v, bound, out, lse))


def backward(*arrays: Array) -> None:
    """q, k, v, grad [B, 8, N], lse, delta [B, N]; writes grad_q, grad_k, grad_v [B, 8, N]."""
    _each(_backward_queries(), arrays[:7])
    _each(_backward_keys(), (*arrays[:6], *arrays[7:]))


def _each(function: Any, arrays: tuple[Array, ...]) -> None:
    """Run a kernel over all batch entries, rows split among the threads."""
    batch, n = arrays[0].shape[0], arrays[0].shape[-1]
    run(
        function,
        [(*(a[b] for a in arrays), _tile(), *band) for b in range(batch) for band in bands(n, 64)],
    )


def _tile() -> Array:
    """Scratch [18, _TILE] on a cache line boundary (torch aligns to 64 bytes): unaligned vectors would straddle two."""
    return torch.empty(18, _TILE).numpy()
