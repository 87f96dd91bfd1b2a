"""HiP: the tree search as the specification prints it, one query block after the other; the tests' truth.

Specification: methods/hip.md, 3.1 and 3.2, in the integer form of pitfall 4.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..equations import accumulator, repeat_kv
from ..tokens.top_k import largest
from .settings import Layout, pick


def children(left: Tensor, right: Tensor) -> Tensor:
    """Of each node of [..., K] its left and its right half, in the order of their keys: [..., 2K]."""
    return torch.stack([left, right], -1).flatten(-2)


def search_block(queries: Tensor, table: Tensor, layout: Layout, block: int) -> Tensor:
    """Section 3.1, steps 3-5, for one query block as printed: int64 [N, K] first units of the surviving nodes.

    ``queries`` [N, R, D] are the rows that steer the search, ``table`` [N, T, D] is from ``search_table``.
    """
    settings, k = layout.settings, layout.settings.num_nodes
    units, end = int(layout.units[block]), int(layout.end[block])
    entries, per = len(queries), settings.per_unit
    last = end // settings.block_size_k_group * (per // settings.block_size_k) - 1
    edges = torch.tensor([units * i // k for i in range(k + 1)], device=queries.device)
    start, size = edges[:-1].expand(entries, k), edges.diff().expand(entries, k)  # [N, K]
    remaining, step = units / k, 0
    while remaining > 1:
        half = size // 2
        start, size = children(start, start + half), children(half, size - half)  # [N, 2K]
        unit = pick(settings, start, size, step, torch.tensor(block, device=queries.device))
        vector = (unit[..., None] * per + torch.arange(per, device=queries.device)).clamp(max=last)  # [N, 2K, per]
        keys = table[torch.arange(entries, device=queries.device)[:, None, None], vector]  # [N, 2K, per, D]
        scores = torch.einsum("nrd,nkjd->nkjr", queries, keys).amax((2, 3))
        best = largest(scores.masked_fill(size == 0, -torch.inf), k).sort(1).values
        start, size = start.gather(1, best), size.gather(1, best)
        remaining, step = remaining / 2, step + 1
    return start


def search(queries: Tensor, rows: Tensor, table: Tensor, layout: Layout) -> tuple[Tensor, int]:
    """Arguments and results of ``search.search``."""
    dtype, settings, first = accumulator(queries.dtype), layout.settings, layout.num_simple
    batch, heads = queries.shape[:2]
    flat = queries[:, :, rows.to(queries.device)].flatten(0, 1).to(dtype)  # [N, nB, R, D]
    table = repeat_kv(table, heads).flatten(0, 1).to(dtype)
    chosen = torch.stack([search_block(flat[:, i], table, layout, first + i) for i in range(len(rows))], 1)
    scores = 2 * settings.num_nodes * settings.per_unit * rows.shape[1]  # of a round
    searched = batch * heads * scores * int(layout.rounds[first:].sum())
    return chosen.view(batch, heads, *chosen.shape[1:]), searched
