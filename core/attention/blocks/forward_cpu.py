"""Forward pass of the block engine on the CPU: float32 matrix products with the softmax kernels between them.

bfloat16 and float16 are widened tile by tile: PyTorch's bfloat16 product rounds its result, and scores of eight bits
make ten times the error of the inputs' own rounding. A thread takes one query block at a time and needs two buffers of
a tile, which stay in its second-level cache; torch itself runs single-threaded inside, so the bits do not depend on the
number of threads, and what is strided is copied, so that they do not depend on the layout either.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...threads import run_in_turns
from ..equations import needs_cpu_floats
from ..products import float32_product, whole
from .forward import forward_where_not_finite
from .softmax_cpu import finish, scale_and_add, softmax
from .tiles import Pattern, Tile, gather_into, tiles

_TILE_BYTES = 1536 * 1024  # scores, keys and values of a tile: smaller ones fit the cache better and cost more steps
_FEW = 8  # rows of a decode step, which waits for the keys: more would be computed for nothing


def refuses(q: Tensor, *_: Any, scale: float | None = None, **__: Any) -> str | None:
    """Why ``forward`` does not take a call of attention over blocks."""
    return "takes no scale of 0" if scale == 0 else needs_cpu_floats(q)


def forward(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, scale: float) -> tuple[Tensor, Tensor]:
    """As ``forward.forward``, computed in float32."""
    out, lse = _forward(q, k, v, pattern, scale)
    return forward_where_not_finite(out, lse, q, k, v, pattern, scale)


def _forward(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, scale: float) -> tuple[Tensor, Tensor]:
    """``forward`` but for rows that are not finite."""
    batch, heads, len_q, _ = q.shape
    out = q.new_empty(batch, heads, len_q, v.shape[3])
    lse = q.new_empty(batch, heads, len_q, dtype=torch.float32)
    k, v = (x if x.stride(3) == 1 else x.contiguous() for x in (k, v))
    flat_out, flat_lse = out.view(batch * heads, len_q, v.shape[3]), lse.view(batch * heads, len_q)
    blocks = -(-len_q // pattern.block_m)
    # the last blocks of a causal call are the longest
    todo = ((head, block) for head in range(batch * heads) for block in reversed(range(blocks)))
    run_in_turns(lambda: partial(_Worker(q, k, v, pattern, scale).attend, out=flat_out, lse=flat_lse), todo)
    return out, lse


class _Worker:
    """One thread's buffers and its way through a query block.

    A step is some tens of microseconds where blocks are small: everything that can be is prepared here, and numpy does
    the indexing, which takes it a fraction of torch's time.
    """

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, scale: float) -> None:
        self.pattern = pattern
        group = q.shape[1] // k.shape[1]
        self.queries = [head for batch in q for head in batch]
        self.keys = [head for batch in k for head in batch for _ in range(group)]
        self.values = [head for batch in v for head in batch for _ in range(group)]
        self.product = float32_product()
        self.sign = -1.0 if scale < 0 else 1.0  # the kernels want a factor >= 0: the maximum of scores stays one
        self.factor = np.float32(abs(scale) * math.log2(math.e))
        rows = min(pattern.block_m, pattern.len_q)
        column = (rows + k.shape[3] + v.shape[3]) * 4
        self.size = max(1, min(pattern.tile_keys or max(64, _TILE_BYTES // column // 64 * 64), pattern.len_k))
        self.query, self.mean = torch.zeros(whole(rows), q.shape[3]), torch.empty(rows, v.shape[3])
        # zeros: what is beyond a tile's keys may be what another tile left there, but nothing that is no number
        self.key, self.value = (torch.zeros(whole(self.size), x.shape[3]) for x in (k, v))
        self.mean_array = self.mean.numpy()
        self.high, self.total, self.fade = np.empty((3, rows), dtype=np.float32)
        self.zeros = np.zeros(rows, dtype=np.int64)

    def attend(self, head: int, block: int, out: Tensor, lse: Tensor) -> None:
        """Rows of ``out`` [B * Hq, Lq, Dv] and ``lse`` [B * Hq, Lq] of one query block of one head."""
        start = block * self.pattern.block_m
        stop = min(start + self.pattern.block_m, self.pattern.len_q)
        rows = stop - start
        query = self.query[: whole(rows) if rows > _FEW else rows]
        torch.mul(self.queries[head][start:stop], self.sign, out=query[:rows])
        self.mean_array[:rows] = 0
        self.high[:rows] = -np.inf
        self.total[:rows] = 0
        for tile in tiles(self.pattern, head, block, self.size):
            self._step(query, rows, self.keys[head], self.values[head], tile)
        finish()(
            self.mean_array[:rows], self.high[:rows], self.total[:rows], self.factor, lse[head, start:stop].numpy()
        )
        out[head, start:stop] = self.mean[:rows]

    def _step(self, query: Tensor, rows: int, k: Tensor, v: Tensor, tile: Tile) -> None:
        """Take a tile of keys into the first rows of ``mean``, ``high`` and ``total``."""
        width = tile.width
        key, value = (gather_into(to, x, tile.spans, width, whole(width)) for to, x in ((self.key, k), (self.value, v)))
        scores = self.product(query, key)
        weights, fade = scores.numpy()[:rows], self.fade[:rows]
        first = self.zeros[:rows] if tile.first is None else tile.first
        last = np.full(rows, width) if tile.last is None else tile.last
        softmax()(
            weights, weights.view(np.int32), first, last, tile.sinks, self.factor, self.high[:rows], self.total[:rows],
            fade,
        )  # fmt: skip
        scale_and_add()(self.mean_array[:rows], fade, self.product(scores, value.mT).numpy()[:rows])
