"""Superlinear attention, steps 1 and 2: the best anchors of every query, as a numba kernel over float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...jit import kernel
from ...threads import run

Array = np.ndarray[Any, Any]
_TILE = 512  # queries: with the keys that neighbouring stripes share, 2 x 256 KB at D = 128, inside a 1 MB cache
_ZERO, _INF = np.float32(0), np.float32(np.inf)


@kernel("void(float32[:,::1],float32[:,::1],int64[::1],int64,float32[:,::1],int32[:,::1],int64,int64)")
def _search(
    q: Array, k: Array, steps: Array, offset: int, scores: Array, anchors: Array, start: int, stop: int
) -> None:
    """Rows start..stop-1 of ``scores`` and ``anchors`` [Lq, num_spans], which come as -inf and -1, best first.

    At one stripe the anchors of neighbouring queries are neighbouring keys. Far to near, and only what is strictly
    greater moves in, so that of equal scores the farther anchor stays ahead.
    """
    count = scores.shape[1]
    for stripe in range(steps.shape[0] - 1, -1, -1):
        shift = offset + 1 - steps[stripe]
        for row in range(max(start, -shift), stop):
            a, b = q[row], k[row + shift]
            score = _ZERO
            for d in range(a.shape[0]):
                score += a[d] * b[d]
            if score != score:
                score = _INF  # as in ``tokens.top_k``
            if score > scores[row, count - 1]:
                place = count - 1
                while place > 0 and score > scores[row, place - 1]:
                    scores[row, place] = scores[row, place - 1]
                    anchors[row, place] = anchors[row, place - 1]
                    place -= 1
                scores[row, place] = score
                anchors[row, place] = row + shift


def search(q: Tensor, k: Tensor, steps: Tensor, num_spans: int) -> tuple[Tensor, Tensor]:
    """q [B, Hq, Lq, D], k [B, Hkv, Lk, D], steps int64 [S] -> scores, anchors [B, Hq, Lq, num_spans]."""
    batch, heads, len_q, _ = q.shape
    scores = torch.full((batch, heads, len_q, num_spans), -torch.inf)
    anchors = torch.full(scores.shape, -1, dtype=torch.int32)
    function, offset, group = _search(), k.shape[2] - len_q, heads // k.shape[1]
    q, k = q.float().contiguous(), k.float().contiguous()
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
