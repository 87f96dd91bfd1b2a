"""HiP: the tree search in torch, many query blocks at once; for float64 and for devices without a kernel of ours.

Specification: methods/hip.md, 3.1 and 3.2, in the integer form of pitfall 4.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..equations import accumulator
from ..tokens.top_k import largest
from .search_reference import children
from .settings import Layout, pick

_GATHER_BYTES = 1 << 25  # keys gathered at a time


def search(queries: Tensor, rows: Tensor, table: Tensor, layout: Layout) -> tuple[Tensor, int]:
    """Units for every query block from ``layout.num_simple`` on.

    Parameters
    ----------
    queries : Tensor [B, H, L, D]
    rows : Tensor, int64 [nB, R]
        Which queries steer the search of each of these blocks.
    table : Tensor [B, Hkv, T, D]
        From ``search_table``; Hkv divides H.
    layout : Layout

    Returns
    -------
    starts : Tensor, int64 [B, H, nB, K]
        First units of the surviving nodes, ascending.
    searched : int
        Scores computed.
    """
    settings, skipped = layout.settings, layout.num_simple
    batch, heads, _, dim = queries.shape
    count = len(rows)
    k, per = settings.num_nodes, settings.per_unit
    starts = torch.empty(batch, heads, count, k, dtype=torch.int64, device=queries.device)
    chunk = max(1, _GATHER_BYTES // (2 * k * per * dim * 4 * max(1, batch * heads)))
    flat = table.reshape(-1, dim)
    entry = torch.arange(batch * heads, device=queries.device) // (heads // table.shape[1])
    entry = (entry * table.shape[2]).view(batch, heads, 1, 1, 1)  # where each head's vectors begin in ``flat``
    searched = 0
    for begin in range(0, count, chunk):
        part = slice(begin, min(begin + chunk, count))
        block = torch.arange(part.start, part.stop, device=queries.device)[:, None] + skipped
        units = layout.units[skipped:][part].to(queries.device)[:, None]  # [C, 1]
        last = layout.end[skipped:][part].to(queries.device) // settings.block_size_k_group
        last = (last * (per // settings.block_size_k) - 1)[:, None, None]  # no vector after the block's own position
        q = queries[:, :, rows[part].to(queries.device)].to(accumulator(queries.dtype))
        edges = units * torch.arange(k + 1, device=q.device) // k  # [C, K + 1]
        start = edges[:, :-1].expand(batch, heads, -1, -1)  # [B, H, C, K]
        size = edges.diff().expand(batch, heads, -1, -1)
        # a node of one unit survives further halvings, so blocks that are done sooner may go on with the others
        for step in range(int(layout.rounds[skipped:][part].max())):
            half = size // 2
            start, size = children(start, start + half), children(half, size - half)  # [B, H, C, 2K]
            unit = pick(settings, start, size, step, block)
            vector = torch.minimum(unit[..., None] * per + torch.arange(per, device=q.device), last)
            keys = flat[entry + vector].to(q.dtype)  # [B, H, C, 2K, per, D]
            scores = torch.einsum("bhcrd,bhckjd->bhckjr", q, keys).amax((4, 5)).masked_fill(size == 0, -torch.inf)
            best = largest(scores, k).sort(3).values  # nodes stay ascending, so that ties are the same everywhere
            start, size = start.gather(3, best), size.gather(3, best)
            searched += scores.numel() * per * rows.shape[1]
        starts[:, :, part] = start
    return starts, searched
