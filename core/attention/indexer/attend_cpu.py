"""Search and attention in one on the CPU, by the kernels of the search and two more.

The products q . k that the search computes are the scores of the attention, so only values are gathered: key block by
key block for all queries of a chunk, while the block's values lie in the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...jit import kernel
from ..tile_cpu import prefetch
from ..tokens.attend_cpu import add_values, padded, softmax
from .index import TokenIndex
from .module import head_weights
from .products_cpu import Floats, Ints, Longs
from .search_cpu import chunk_rows, in_chunks


@kernel("void(float32[:,:,::1],int32[::1],float32)")
def _weigh(scores: Floats, lengths: Ints, scale: float) -> None:
    """The first ``lengths[t]`` products of each scores[t, h] to softmax weights, in place."""
    for t in range(scores.shape[0]):
        if lengths[t] > 0:
            for h in range(scores.shape[1]):
                row = scores[t, h, : lengths[t]]
                for i in range(row.size):
                    row[i] *= scale
                softmax(row)


def _add(
    weights: Floats, tokens: Ints, ends: Ints, starts: Longs, lines: Ints, v: Any, size: int, slot: Longs,
    out: Floats,
) -> None:  # fmt: skip
    """out [m, H, Dv] = sums of v [Lk, Dv] weighted by weights [m, H, K] over lists tokens [m, K]; Dv = 16 n.

    ``v`` as in ``add_values``, ``ends`` as in ``BestTokens``, ``starts`` and ``lines`` as in ``BlockProducts``, for
    blocks of ``size`` keys; ``slot`` [m] is scratch.
    """
    heads, room, block_bytes = weights.shape[1], weights.shape[2], v.itemsize * size * v.shape[1]
    slot[:] = 0
    out[:] = 0
    first = np.int64(0)
    for block in range(starts.size - 1):
        last = starts[block]
        # chosen values lie where no hardware prefetcher looks: each pair asks for a share of the next block's lines
        ahead = v.ctypes.data + (block + 1) * block_bytes
        stop = min(ahead + block_bytes, v.ctypes.data + v.itemsize * v.size)
        share = 64 * (block_bytes // 64 // max(1, last - first) + 1)
        for pair in range(first, last):
            for line in range(ahead, min(ahead + share, stop), 64):
                prefetch(line)
            ahead += share
            t = np.int64(lines[pair * heads]) // heads
            s = slot[t]  # a query's blocks ascend
            slot[t] = s + 1
            begin = np.int64(ends[t, s - 1]) if s > 0 else np.int64(0)
            count = ends[t, s] - begin
            if count > 0:
                listed = tokens.ctypes.data + 4 * (t * room + begin)
                for row in range(t * heads, (t + 1) * heads):
                    weight = weights.ctypes.data + 4 * (row * room + begin)
                    add_values(weight, listed, count, v, out.ctypes.data + 4 * row * v.shape[1])
        first = last


_LISTS = "void(float32[:,:,::1],int32[:,::1],int32[:,::1],int64[::1],int32[::1],"
_add_float32 = kernel(_LISTS + "float32[:,::1],int64,int64[::1],float32[:,:,::1])")(_add)
_add_bfloat16 = kernel(_LISTS + "int16[:,::1],int64,int64[::1],float32[:,:,::1])")(_add)


def attend(q: Tensor, v: Tensor, index: TokenIndex, ks: Tensor, ke: Tensor, scale: float, out: Tensor) -> None:
    """Search ``index`` for the queries q [H, M, D] of one key/value head and attend, into ``out`` [H, M, Dv].

    ``v`` [Lk, Dv], windows int64 [M] that begin at 0.
    """
    heads, num_queries, _ = q.shape
    value_dim = v.shape[1]
    narrow = v.dtype == torch.bfloat16
    values = padded(v).view(torch.int16).numpy() if narrow else padded(v.float()).numpy()
    add = _add_bfloat16() if narrow else _add_float32()
    rows = min(chunk_rows(index.slots * heads), num_queries)

    def make() -> Callable[[slice], None]:
        """One thread's memory."""
        chunk = index.chunk(rows, heads)
        tokens = np.empty((rows, index.top_k), np.int32)
        scores = np.empty((rows, heads, index.top_k), np.float32)
        result = torch.empty(rows, heads, values.shape[1])
        slot = np.empty(rows, np.int64)

        def one(part: slice) -> None:
            m = part.stop - part.start
            listed, weight, sums = tokens[:m], scores[:m], result[:m]
            queries = q[:, part].transpose(0, 1)
            chunk.find(queries, head_weights(queries), ks[part], ke[part], listed, values=weight)
            fine, products = chunk.fine, chunk.fine.products
            _weigh()(weight, fine.lengths, np.float32(scale))
            add(weight, listed, fine.ends, products.starts, products.lines, values, fine.size, slot, sums.numpy())
            out[:, part] = sums[..., :value_dim].transpose(0, 1)

        return one

    in_chunks((ke - ks).clamp(0, index.slots), rows, make)
