"""Backward pass of the block engine: probabilities again from the log-sum-exp, tile by tile."""

from __future__ import annotations

import torch
from torch import Tensor

from ..equations import accumulator
from .tiles import Pattern, Spans, gather, tiles

_TILE_KEYS = 2048


def backward(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, grad_out: Tensor, grad_lse: Tensor,
    pattern: Pattern, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q, k and v from those of ``out`` [B, Hq, Lq, Dv] and ``lse`` [B, Hq, Lq].

    With P the probabilities, dS = P * (dO vᵀ - rowsum(dO * O) + dlse): dQ = dS K, dK = dSᵀ Q, dV = Pᵀ dO.
    """
    batch, heads, len_q, _ = q.shape
    group = heads // k.shape[1]
    accum = accumulator(q.dtype)
    grad_q = torch.empty_like(q)
    grad_k, grad_v = torch.zeros_like(k, dtype=accum), torch.zeros_like(v, dtype=accum)
    for head in range(batch * heads):
        b, h = divmod(head, heads)
        shared = b, h // group
        for block in range(-(-len_q // pattern.block_m)):
            rows = slice(block * pattern.block_m, min((block + 1) * pattern.block_m, len_q))
            query, grad = q[b, h, rows].to(accum), grad_out[b, h, rows].to(accum)
            delta = (grad * out[b, h, rows]).sum(-1, keepdim=True) - grad_lse[b, h, rows, None]
            base = lse[b, h, rows, None].clamp(min=torch.finfo(accum).min)  # rows without keys: exp(-inf), not NaN
            into = torch.zeros_like(query)
            for tile in tiles(pattern, head, block, _TILE_KEYS):
                key, value = (gather(x[shared], tile.spans).to(accum) for x in (k, v))
                scores = (query @ key.mT) * scale  # [rows, keys]
                hidden = tile.hidden(q.device)
                if hidden is not None:
                    scores.masked_fill_(hidden, -torch.inf)
                prob = (scores - base).exp()
                slope = prob * (grad @ value.mT - delta) * scale
                into += slope @ key
                _scatter(grad_k[shared], tile.spans, slope.mT @ query)
                _scatter(grad_v[shared], tile.spans, prob.mT @ grad)
            grad_q[b, h, rows] = into.to(q.dtype)
    return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype)


def _scatter(x: Tensor, spans: Spans, part: Tensor) -> None:
    """Add ``part`` to the rows ``spans`` of ``x``: the transpose of ``gather``."""
    done = 0
    for start, stop in spans.tolist():
        x.narrow(0, start, stop - start).add_(part[done : done + stop - start])  # ``x[:] +=`` fails under create_graph
        done += stop - start
