"""Numba kernels of the oracle: where to cut a row of scores, and the mean of the values above the cut."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from ...jit import FASTMATH, exp_negative, kernel
from ..indexer.attend_cpu import attend as attend_in_one
from ..indexer.index import FlatIndex
from ..indexer.operator import windows
from ..tokens.top_k_cpu import threshold
from .selection import OracleSelection, each_chunk

if TYPE_CHECKING:
    from .operator import Settings

Array = np.ndarray[Any, Any]
_INF = np.float32(np.inf)
_STRIDE = 32  # scores looked at together: most strides hold nothing above the cut


@kernel("void(float32[:,::1],int64[::1],int64,float32[::1],int64[::1])")
def cut_rows(scores: Array, seen: Array, top_k: int, cut: Array, ties: Array) -> None:
    """Chosen of row i are the scores above cut[i] and the first ties[i] equal to it, among the first seen[i]."""
    guess = np.float32(0)
    for i in range(scores.shape[0]):
        ties[i] = top_k
        if seen[i] <= top_k:
            cut[i] = -np.inf
            continue
        _, low, equal = threshold(scores[i, : seen[i]], top_k, guess)
        cut[i] = guess = low
        if equal:
            ties[i] = equal  # else nothing, or all that equals the cut, is chosen: fewer than top_k


@njit(fastmath=FASTMATH, error_model="numpy")
def _at_least(row: Array, cut: Any) -> Any:
    n = np.int32(0)
    for j in range(row.size):
        n += np.int32(row[j] >= cut)
    return n


@njit(fastmath=FASTMATH, error_model="numpy")
def _add(out: Array, weight: Any, value: Array) -> None:
    for d in range(out.size):
        out[d] += weight * value[d]


@kernel("void(float32[:,::1],int64[::1],float32[::1],int64[::1],float32[:,::1],float32[:,::1])")
def mean_of_chosen(scores: Array, seen: Array, cut: Array, ties: Array, v: Array, out: Array) -> None:
    """out[i] = softmax-weighted mean of the values that ``cut_rows`` chose for row i; zeros where there is none.

    A score that is NaN or infinity is always among the chosen, and makes the row NaN.
    """
    for i in range(scores.shape[0]):
        row, mean = scores[i, : seen[i]], out[i]
        high, lost = np.float32(-np.inf), np.int32(0)
        for j in range(row.size):
            high = max(high, row[j])
            lost += np.int32(not row[j] < _INF)
        if lost or (row.size and high == -_INF):
            mean[:] = np.nan
            continue
        total = np.float32(0)
        mean[:] = 0
        equal = 0
        for start in range(0, row.size, _STRIDE):
            part = row[start : start + _STRIDE]
            if _at_least(part, cut[i]) == 0:
                continue
            for j in range(part.size):
                if part[j] == cut[i]:
                    equal += 1
                if part[j] > cut[i] or (part[j] == cut[i] and equal <= ties[i]):
                    weight = exp_negative(part[j] - high)
                    total += weight
                    _add(mean, weight, v[start + j])
        if total > 0:
            mean /= total


def select(q: Tensor, k: Tensor, *, causal: bool, scale: float | None = None, settings: Settings) -> OracleSelection:
    """As ``operator.select``."""
    made = OracleSelection.empty(q, k, top_k=settings.top_k, causal=causal, scale=scale)
    cut, ties = made.cut.numpy(), made.ties.numpy()

    def visit(b: int, h: int, rows: slice, scores: Tensor, seen: Tensor) -> None:
        cut_rows()(scores.numpy(), seen.numpy(), settings.top_k, cut[b, h, rows], ties[b, h, rows])

    each_chunk(q, k, causal=causal, scale=made.scale, visit=visit)
    return made


def attend(
    q: Tensor, k: Tensor, v: Tensor, selection: OracleSelection, *, causal: bool, scale: float | None = None,
    settings: Settings,
) -> Tensor:  # fmt: skip
    """As ``operator.attend``."""
    group, out = q.shape[1] // k.shape[1], q.new_empty(*q.shape[:3], v.shape[3])
    all_cuts, all_ties = selection.cut.numpy(), selection.ties.numpy()

    def visit(b: int, h: int, rows: slice, scores: Tensor, seen: Tensor) -> None:
        mean, value = torch.empty(scores.shape[0], v.shape[3]), v[b, h // group].float().contiguous()
        cut, ties = all_cuts[b, h, rows], all_ties[b, h, rows]
        mean_of_chosen()(scores.numpy(), seen.numpy(), cut, ties, value.numpy(), mean.numpy())
        out[b, h, rows] = mean

    each_chunk(q, k, causal=causal, scale=selection.scale, visit=visit)
    return out


def in_one(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float | None = None, settings: Settings) -> Tensor:
    """Both phases: the flat search of the indexers for each query head by itself, with the products for scores."""
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    if factor < 0:
        q, factor = -q, -factor
    group, out = q.shape[1] // k.shape[1], q.new_empty(*q.shape[:3], v.shape[3])
    ks, ke = windows(q.shape[2], k.shape[2], causal, q.device)
    for b in range(k.shape[0]):
        for kv in range(k.shape[1]):
            index = FlatIndex(k[b, kv], top_k=settings.top_k, signed=True)
            for h in range(kv * group, (kv + 1) * group):
                attend_in_one(q[b, h : h + 1], v[b, kv], index, ks, ke, factor, out[b, h : h + 1])
    return out
