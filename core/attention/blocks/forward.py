"""Forward pass of the block engine: online softmax over key tiles, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from ..equations import accumulator, all_finite, weighted_sum
from .tiles import Pattern, gather, tiles

_TILE_KEYS = 2048


def forward(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, scale: float) -> tuple[Tensor, Tensor]:
    """``out`` [B, Hq, Lq, Dv] and ``lse`` [B, Hq, Lq] of softmax attention over the pattern's keys."""
    batch, heads, len_q, _ = q.shape
    group = heads // k.shape[1]
    accum = accumulator(q.dtype)
    out = q.new_empty(batch, heads, len_q, v.shape[3])
    lse = q.new_empty(batch, heads, len_q, dtype=accum)
    for head in range(batch * heads):
        b, h = divmod(head, heads)
        for block in range(-(-len_q // pattern.block_m)):
            rows = slice(block * pattern.block_m, min((block + 1) * pattern.block_m, len_q))
            query = q[b, h, rows].to(accum) * scale
            high = query.new_full((query.shape[0], 1), -torch.inf)
            total = torch.zeros_like(high)
            mean = query.new_zeros(query.shape[0], v.shape[3])
            seen = torch.zeros_like(high, dtype=torch.bool)  # a key, be its score minus infinity
            for tile in tiles(pattern, head, block, _TILE_KEYS):
                scores = query @ gather(k[b, h // group], tile.spans).to(accum).mT  # [rows, keys]
                hidden = tile.hidden(q.device)
                if hidden is not None:
                    scores.masked_fill_(hidden, -torch.inf)
                new = torch.maximum(high, scores.amax(-1, keepdim=True))
                base = new.clamp(min=torch.finfo(accum).min)  # rows that have seen no key yet: exp(-inf), not NaN
                weight, fade = (scores - base).exp(), (high - base).exp()
                total = total * fade + weight.sum(-1, keepdim=True)
                value = gather(v[b, h // group], tile.spans).to(accum)
                mean = mean * fade + weighted_sum(weight, value, None if hidden is None else ~hidden)
                high = new
                seen |= torch.ones_like(seen) if hidden is None else ~hidden.all(-1, keepdim=True)
            out[b, h, rows] = (mean / total).masked_fill(~seen, 0.0).to(q.dtype)
            lse[b, h, rows] = (high + total.log())[:, 0]
    return out, lse


def forward_where_not_finite(
    out: Tensor, lse: Tensor, q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, scale: float
) -> tuple[Tensor, Tensor]:
    """``out`` and ``lse`` of a kernel, their rows that hold NaN or infinity again by ``forward``.

    As ``again_where_not_finite``, for two results.
    """
    if all_finite(out):
        return out, lse
    bad = ~out.isfinite().all(-1)
    if bad.any():
        plain_out, plain_lse = forward(q, k, v, pattern, scale)
        out, lse = torch.where(bad[..., None], plain_out, out), torch.where(bad, plain_lse, lse)
    return out, lse
