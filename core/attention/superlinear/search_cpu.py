"""Superlinear attention, steps 1 and 2: the best anchors of every query, as a numba kernel.

Products of float32, or of bfloat16 in pairs where the processor multiplies them, added in float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit, types
from numba.extending import overload
from torch import Tensor
from torch.nn.functional import pad

from ...jit import kernel
from ...threads import run
from ..tile_cpu import (
    LANES,
    four_dots,
    four_dots_of_pairs,
    items_of,
    multiplies_pairs,
    one_dot,
    one_dot_of_pairs,
)

Array = np.ndarray[Any, Any]
_TILE = 512  # queries: with the keys that neighbouring stripes share, 2 x 256 KB at D = 128, inside a 1 MB cache
_INF = np.float32(np.inf)


def _dots(q: Any, a: int, b: int, pitch: int, count: int, out: int) -> None:
    """The products of ``count`` rows at ``a`` with those at ``b``, each ``pitch`` bytes long, to ``out``."""


@overload(_dots, strict=False)
def _dots_for(q: Any, a: int, b: int, pitch: int, count: int, out: int) -> Any:
    four, one = (four_dots_of_pairs, one_dot_of_pairs) if q.dtype == types.int32 else (four_dots, one_dot)

    def dots(q: Any, a: int, b: int, pitch: int, count: int, out: int) -> None:
        vectors, done = pitch // (4 * LANES), 0
        while done + 4 <= count:
            four(a + done * pitch, pitch, b + done * pitch, pitch, vectors, out + 4 * done)
            done += 4
        while done < count:
            one(a + done * pitch, pitch, b + done * pitch, pitch, vectors, out + 4 * done)
            done += 1

    return dots


@njit(error_model="numpy")
def _insert(scores: Array, anchors: Array, row: int, score: Any, anchor: int) -> None:
    """Into the lists of a row, best first, what is better than their last."""
    place = scores.shape[1] - 1
    while place > 0 and score > scores[row, place - 1]:
        scores[row, place] = scores[row, place - 1]
        anchors[row, place] = anchors[row, place - 1]
        place -= 1
    scores[row, place] = score
    anchors[row, place] = anchor


def _search(
    q: Array, k: Array, steps: Array, offset: int, scores: Array, anchors: Array, start: int, stop: int
) -> None:
    """Rows start..stop-1 of ``scores`` and ``anchors`` [Lq, num_spans], which come as -inf and -1, best first.

    At one stripe the anchors of neighbouring queries are neighbouring keys. Far to near, and only what is strictly
    greater moves in, so that of equal scores the farther anchor stays ahead.
    """
    worst, pitch = scores.shape[1] - 1, 4 * q.shape[1]
    found = np.empty(stop - start, np.float32)
    for stripe in range(steps.shape[0] - 1, -1, -1):
        shift = offset + 1 - steps[stripe]
        first = max(start, -shift)
        a, b = q.ctypes.data + first * pitch, k.ctypes.data + (first + shift) * pitch
        _dots(q, a, b, pitch, stop - first, found.ctypes.data)
        for row in range(first, stop):
            score = found[row - first]
            if score != score:
                score = _INF  # as in ``tokens.top_k``
            if score > scores[row, worst]:
                _insert(scores, anchors, row, score, row + shift)


_REST = "int64[::1],int64,float32[:,::1],int32[:,::1],int64,int64)"
_search_float32 = kernel("void(float32[:,::1],float32[:,::1]," + _REST)(_search)
_search_pairs = kernel("void(int32[:,::1],int32[:,::1]," + _REST)(_search)


def search(q: Tensor, k: Tensor, steps: Tensor, num_spans: int) -> tuple[Tensor, Tensor]:
    """q [B, Hq, Lq, D], k [B, Hkv, Lk, D], steps int64 [S] -> scores, anchors [B, Hq, Lq, num_spans]."""
    batch, heads, len_q, _ = q.shape
    scores = torch.full((batch, heads, len_q, num_spans), -torch.inf)
    anchors = torch.full(scores.shape, -1, dtype=torch.int32)
    pairs = q.dtype == k.dtype == torch.bfloat16 and multiplies_pairs()
    function, offset, group = _search_pairs() if pairs else _search_float32(), k.shape[2] - len_q, heads // k.shape[1]
    q, k = (_whole_vectors(items_of(x, pairs=pairs)) for x in (q, k))
    run(
        function,
        (
            (q[b, h].numpy(), k[b, h // group].numpy(), steps.numpy(), offset, scores[b, h].numpy(),
             anchors[b, h].numpy(), first, min(first + _TILE, len_q))
            for b in range(batch)
            for h in range(heads)
            for first in range(0, len_q, _TILE)
        ),
    )  # fmt: skip
    return scores, anchors


def _whole_vectors(x: Tensor) -> Tensor:
    """Zeros behind the items of each row, up to a multiple of 16."""
    return pad(x, (0, -x.shape[-1] % LANES)) if x.shape[-1] % LANES else x
