"""Superlinear attention in plain torch, chunk by chunk: for float64, and for gradients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ._superlinear_span import span_attention
from .base import positions

if TYPE_CHECKING:
    from ._superlinear_comb import Spans

_ELEMENTS = 1 << 22  # of the largest gathered tensor


def chunked_search(q: Tensor, k: Tensor, steps: Tensor, num_spans: int) -> tuple[Tensor, Tensor]:
    """Steps 1 and 2: q [B, Hq, Lq, D], k [B, Hkv, Lk, D], steps int64 [S] -> scores, anchors [B, Hq, Lq, num_spans]."""
    batch, heads, len_q, dim = q.shape
    group, here = heads // k.shape[1], positions(len_q, k.shape[2])
    scores = q.new_full((batch, heads, len_q, num_spans), -torch.inf)
    chosen = torch.full(scores.shape, -1, dtype=torch.int32)
    kept = min(num_spans, len(steps))
    size = max(1, _ELEMENTS // max(1, len(steps) * dim))
    for b in range(batch):
        for h in range(heads):
            for first in range(0, len_q, size):
                rows = slice(first, first + size)
                anchors = here[rows, None] + 1 - steps.flip(0)  # [C, S], far to near
                s = torch.einsum("cd,csd->cs", q[b, h, rows], k[b, h // group][anchors.clamp_min(0)])
                s, order = s.masked_fill(anchors < 0, -torch.inf).sort(dim=-1, descending=True, stable=True)
                scores[b, h, rows, :kept] = s[:, :kept]
                best = anchors.gather(-1, order)[:, :kept].masked_fill(s[:, :kept] == -torch.inf, -1)
                chosen[b, h, rows, :kept] = best.to(torch.int32)
    return scores, chosen


class Chunk(NamedTuple):
    """Some queries of one head: batch entry, head, rows, and which keys they need.

    ``anchors`` int64 [C, k], ``keys`` int64 [C, k, n] and ``near`` int64 [C, W], each with the truth of its entries.
    """

    b: int
    h: int
    rows: slice
    anchors: Tensor
    has_anchor: Tensor
    keys: Tensor
    has_key: Tensor
    near: Tensor
    has_near: Tensor


def chunks(spans: Spans, dim: int) -> Iterator[Chunk]:
    """All queries, so many at a time that what is gathered stays small."""
    batch, heads, len_q, count = spans.start.shape
    here = positions(len_q, spans.len_k)
    longest = int((spans.stop - spans.start).max()) if spans.start.numel() else 0
    size = max(1, _ELEMENTS // (dim * (count * longest + spans.window + 1)))
    for b in range(batch):
        for h in range(heads):
            for first in range(0, len_q, size):
                rows = slice(first, first + size)
                anchors, start, stop = (x[b, h, rows].long() for x in (spans.anchors, spans.start, spans.stop))
                n = max(0, int((stop - start).max()))
                keys = start[..., None] + torch.arange(n)
                near = here[rows, None] - torch.arange(spans.window)
                yield Chunk(
                    b, h, rows, anchors.clamp_min(0), anchors >= 0,
                    keys.clamp_max(spans.len_k - 1), keys < stop[..., None], near.clamp_min(0), near >= 0,
                )  # fmt: skip


def attend_chunk(
    chunk: Chunk, scale: float, gate_scale: float, q_search: Tensor, q: Tensor, k_anchor: Tensor, k_span: Tensor,
    v_span: Tensor, k_near: Tensor, v_near: Tensor,
) -> Tensor:  # fmt: skip
    """Steps 5 and 6 for C queries: q_search, q [C, D], keys and values gathered by ``chunk`` -> out [C, Dv]."""
    gate = gate_scale * torch.einsum("cd,ckd->ck", q_search, k_anchor)
    gate = gate.masked_fill(~chunk.has_anchor, -1e9).softmax(-1)
    count = gate.shape[1]
    far = scale * torch.einsum("cd,ckjd->ckj", q, k_span)
    near = scale * torch.einsum("cd,cwd->cw", q, k_near)
    scores = torch.cat([far, near[:, None].expand(-1, count, -1)], -1)  # [C, k, n + W]
    seen = torch.cat([chunk.has_key, chunk.has_near[:, None].expand(-1, count, -1)], -1)
    scores = scores.masked_fill(~seen, -torch.inf).masked_fill(~seen.any(-1, keepdim=True), 0.0)
    weight = scores.softmax(-1) * seen * gate[..., None]
    n = far.shape[-1]
    return torch.einsum("ckj,ckjd->cd", weight[..., :n], v_span) + weight[..., n:].sum(1)[:, None].matmul(v_near)[:, 0]


def chunked_attention(q: Tensor, k: Tensor, v: Tensor, spans: Spans, scale: float, gate_scale: float) -> Tensor:
    """q [B, Hq, Lq, D], k [B, Hkv, Lk, D], v [B, Hkv, Lk, Dv] -> out [B, Hq, Lq, Dv]; gates from ``spans.scores``."""
    out = q.new_empty(*q.shape[:3], v.shape[3])
    group = q.shape[1] // k.shape[1]
    unit = torch.ones(1, 1, dtype=q.dtype)  # scores are known: a search of one dimension whose products are they
    for c in chunks(spans, q.shape[3] + v.shape[3]):
        key, value = k[c.b, c.h // group], v[c.b, c.h // group]
        scores = spans.scores[c.b, c.h, c.rows].masked_fill(~c.has_anchor, 0.0)[..., None]
        out[c.b, c.h, c.rows] = attend_chunk(
            c, scale, gate_scale, unit.expand(len(scores), 1), q[c.b, c.h, c.rows], scores, key[c.keys], value[c.keys],
            key[c.near], value[c.near],
        )  # fmt: skip
    return out


class SpanAttention(torch.autograd.Function):
    """Steps 5 and 6 with gradients: forward as without, backward recomputed chunk by chunk."""

    @staticmethod
    def forward(
        ctx: Any, q_search: Tensor, k_search: Tensor, q: Tensor, k: Tensor, v: Tensor, spans: Spans, scale: float,
        gate_scale: float,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(q_search, k_search, q, k, v)
        ctx.rest = spans, scale, gate_scale
        run = chunked_attention if q.dtype == torch.float64 else span_attention
        return run(q, k, v, spans, scale, gate_scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        spans, scale, gate_scale = ctx.rest
        saved: tuple[Tensor, ...] = ctx.saved_tensors
        dtype = saved[0].dtype
        group = saved[2].shape[1] // saved[3].shape[1]
        d_search, d_keys, d_q, d_k, d_v = (torch.zeros(x.shape, dtype=dtype) for x in saved)
        for c in chunks(spans, saved[2].shape[3] + saved[4].shape[3]):
            head, kv = (c.b, c.h, c.rows), (c.b, c.h // group)
            ks, k, v = (x[kv].to(dtype) for x in (saved[1], saved[3], saved[4]))
            parts = [
                x.detach().to(dtype).requires_grad_()
                for x in (saved[0][head], saved[2][head], ks[c.anchors], k[c.keys], v[c.keys], k[c.near], v[c.near])
            ]
            with torch.enable_grad():
                out = attend_chunk(c, scale, gate_scale, *parts)
            g = torch.autograd.grad(out, parts, grad[head].to(dtype))
            d_search[head], d_q[head] = g[0], g[1]
            for total, index, part in (
                (d_keys, c.anchors, g[2]), (d_k, c.keys, g[3]), (d_v, c.keys, g[4]), (d_k, c.near, g[5]),
                (d_v, c.near, g[6]),
            ):  # fmt: skip
                total[kv].index_add_(0, index.reshape(-1), part.reshape(-1, part.shape[-1]))
        grads = (d_search, d_keys, d_q, d_k, d_v)
        return *(g.to(x.dtype) for g, x in zip(grads, saved, strict=True)), None, None, None
