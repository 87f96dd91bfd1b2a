"""Forward pass of the block engine on the CPU: torch's matrix products with the softmax kernels between them.

A thread takes one query block at a time and needs two buffers of a tile, which stay in its second-level cache; torch
itself runs single-threaded inside, so the bits do not depend on the number of threads.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np
import torch
from torch import Tensor

from ..threads import kernels_own_the_threads, run, thread_count
from ._blocks_kernels import finish, scale_and_add_bfloat16, scale_rows, softmax_bfloat16, softmax_float32
from ._blocks_tiles import Pattern, Tile, gather_into, tiles

_TILE_SCORES = 128 * 1024  # scores of a tile: half a second-level cache in float32


def forward_cpu(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, scale: float) -> tuple[Tensor, Tensor]:
    """``out`` [B, Hq, Lq, Dv] and ``lse`` [B, Hq, Lq] for float32, bfloat16 and float16 (computed in float32)."""
    batch, heads, len_q, _ = q.shape
    out = q.new_empty(batch, heads, len_q, v.shape[3])
    lse = q.new_empty(batch, heads, len_q, dtype=torch.float32)
    k, v = (x if x.stride(3) == 1 else x.contiguous() for x in (k, v))
    blocks = -(-len_q // pattern.block_m)
    # the last blocks of a causal call are the longest: first, so that no thread is left with one at the end
    todo = deque((head, block) for head in range(batch * heads) for block in reversed(range(blocks)))

    def work() -> None:
        torch.set_num_threads(1)  # counts per thread; undone for the caller by kernels_own_the_threads
        with torch.no_grad():  # also counts per thread
            worker = _Worker(q, k, v, pattern, scale)
            while True:
                try:
                    head, block = todo.popleft()
                except IndexError:
                    return
                worker.attend(head, block, out, lse)

    with kernels_own_the_threads():
        run(work, [()] * min(thread_count(), len(todo)))
    return out, lse


class _Worker:
    """One thread's buffers and its way through a query block."""

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, scale: float) -> None:
        self.q, self.k, self.v, self.pattern = q, k, v, pattern
        self.dtype = torch.bfloat16 if q.dtype == torch.bfloat16 else torch.float32
        self.sign = -1.0 if scale < 0 else 1.0  # the kernels want a factor >= 0: the maximum of scores stays one
        self.factor = np.float32(abs(scale) * math.log2(math.e))
        rows = min(pattern.block_m, pattern.len_q)
        self.size = min(pattern.tile_keys or max(64, _TILE_SCORES // rows), pattern.len_k)
        self.scores = torch.empty(rows * self.size, dtype=self.dtype)
        self.part = torch.empty(rows, v.shape[3], dtype=self.dtype)
        self.mean = torch.empty(rows, v.shape[3])
        self.keys = torch.empty(self.size, k.shape[3], dtype=self.dtype)
        self.values = torch.empty(self.size, v.shape[3], dtype=self.dtype)
        self.state = torch.empty(3, rows)
        self.zeros = np.zeros(rows, dtype=np.int64)
        self.softmax = softmax_bfloat16() if self.dtype == torch.bfloat16 else softmax_float32()

    def attend(self, head: int, block: int, out: Tensor, lse: Tensor) -> None:
        """Rows of ``out`` and ``lse`` of one query block of one head."""
        b, h = divmod(head, self.q.shape[1])
        group = self.q.shape[1] // self.k.shape[1]
        rows = slice(block * self.pattern.block_m, min((block + 1) * self.pattern.block_m, self.q.shape[2]))
        query = self.q[b, h, rows].to(self.dtype)
        if self.sign < 0:
            query = -query
        mean, state = self.mean[: query.shape[0]].zero_(), self.state[:, : query.shape[0]]
        state[0] = -torch.inf
        state[1] = 0.0
        for tile in tiles(self.pattern, head, block, self.size):
            self._step(query, self.k[b, h // group], self.v[b, h // group], tile, mean, state)
        high, total, _ = state.numpy()
        finish()(mean.numpy(), high, total, lse[b, h, rows].numpy())
        out[b, h, rows] = mean

    def _step(self, query: Tensor, k: Tensor, v: Tensor, tile: Tile, mean: Tensor, state: Tensor) -> None:
        """Take a tile of keys into ``mean`` [rows, Dv] and ``state`` [3, rows]: highest score, sum of weights, fade."""
        rows = query.shape[0]
        key, value = gather_into(self.keys, k, tile.spans), gather_into(self.values, v, tile.spans)
        scores = self.scores[: rows * tile.width].view(rows, tile.width)
        torch.mm(query, key.mT, out=scores)
        high, total, fade = state.numpy()
        first = self.zeros[:rows] if tile.first is None else tile.first
        last = np.full(rows, tile.width) if tile.last is None else tile.last
        if self.dtype == torch.bfloat16:
            bits = scores.view(torch.int16).numpy()
            self.softmax(bits.view(np.uint16), bits, first, last, tile.sinks, self.factor, high, total, fade)
            part = torch.mm(scores, value, out=self.part[:rows])
            scale_and_add_bfloat16()(mean.numpy(), fade, part.view(torch.int16).numpy().view(np.uint16))
        else:
            array = scores.numpy()
            self.softmax(array, array.view(np.int32), first, last, tile.sinks, self.factor, high, total, fade)
            scale_rows()(mean.numpy(), fade)
            torch.addmm(mean, scores, value, out=mean)
