"""Superlinear attention in plain torch, chunk by chunk: for float64, for gradients, and for a few queries.

Queries of all heads form one list; a chunk of it gathers the keys that it needs and converts only those, so that a
query against a long cache in bfloat16 does not read it all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...first_order import first_order_only
from ..equations import accumulator, positions, wants_gradient
from ..tokens.top_k import ranked
from .comb import Spans, accumulated
from .settings import Settings

Forward = Callable[[Tensor, Tensor, Tensor, Spans, float, float], Tensor]
Gradients = Callable[..., list[Tensor]]
_ELEMENTS = 1 << 22  # of the largest gathered tensor


class Queries(NamedTuple):
    """Some of the B * Hq * Lq queries: which they are, their key/value head (b * Hkv + h) and position, int64 [C]."""

    rows: slice
    kv: Tensor
    here: Tensor


def queries(q: Tensor, k: Tensor, size: int) -> Iterator[Queries]:
    """All queries of q [B, Hq, Lq, D], ``size`` at a time."""
    heads, len_q = q.shape[1:3]
    here = positions(len_q, k.shape[2], q.device)
    total = q.shape[0] * heads * len_q
    for first in range(0, total, max(1, size)):
        rows = torch.arange(first, min(first + max(1, size), total), device=q.device)
        kv = rows // len_q // (heads // k.shape[1])  # heads of a group are neighbours
        yield Queries(slice(first, first + len(rows)), kv, here[rows % len_q])


def gather(x: Tensor, kv: Tensor, index: Tensor) -> Tensor:
    """Rows ``index`` int64 [C, ..] of the heads ``kv`` [C] of x [B, Hkv, Lk, D], in the softmax dtype: [C, .., D]."""
    kv = kv.view(-1, *(1,) * (index.ndim - 1))
    return x[kv // x.shape[1], kv % x.shape[1], index].to(accumulator(x.dtype))


def flat(x: Tensor) -> Tensor:
    """[B, H, L, D] -> [B * H * L, D]."""
    return x.reshape(-1, x.shape[-1])


def chunked_search(q: Tensor, k: Tensor, steps: Tensor, num_spans: int) -> tuple[Tensor, Tensor]:
    """Steps 1 and 2: q [B, Hq, Lq, D], k [B, Hkv, Lk, D], steps int64 [S] -> scores, anchors [B, Hq, Lq, num_spans]."""
    scores = q.new_full((*q.shape[:3], num_spans), -torch.inf, dtype=accumulator(q.dtype))
    chosen = torch.full(scores.shape, -1, dtype=torch.int32, device=q.device)
    kept = min(num_spans, len(steps))
    query = flat(q)
    for part in queries(q, k, _ELEMENTS // max(1, len(steps) * q.shape[3])):
        anchors = part.here[:, None] + 1 - steps.flip(0)  # [C, S], far to near
        keys = gather(k, part.kv, anchors.clamp_min(0))  # [C, S, D]
        s = torch.einsum("cd,csd->cs", query[part.rows].to(keys.dtype), keys)
        s, order = ranked(s).masked_fill(anchors < 0, -torch.inf).sort(dim=-1, descending=True, stable=True)
        best = anchors.gather(-1, order)[:, :kept].masked_fill(s[:, :kept] == -torch.inf, -1)
        flat(scores)[part.rows, :kept] = s[:, :kept]
        flat(chosen)[part.rows, :kept] = best.to(torch.int32)
    return scores, chosen


class Chunk(NamedTuple):
    """Queries and the keys they need, as positions.

    ``anchors`` int64 [C, k], ``keys`` int64 [C, k, n] and ``near`` int64 [C, W], each with the truth of its entries.
    """

    queries: Queries
    anchors: Tensor
    has_anchor: Tensor
    keys: Tensor
    has_key: Tensor
    near: Tensor
    has_near: Tensor


def chunks(q: Tensor, k: Tensor, v: Tensor, spans: Spans) -> Iterator[Chunk]:
    """All queries, so many at a time that what is gathered stays small."""
    count = spans.start.shape[-1]
    longest = int((spans.stop - spans.start).max()) if spans.start.numel() else 0
    each = (q.shape[3] + v.shape[3]) * (count * longest + spans.window + 1)
    for part in queries(q, k, _ELEMENTS // each):
        anchors, start, stop = (flat(x)[part.rows].long() for x in (spans.anchors, spans.start, spans.stop))
        keys = start[..., None] + torch.arange(int((stop - start).max()), device=q.device)
        near = part.here[:, None] - torch.arange(spans.window, device=q.device)
        yield Chunk(
            part, anchors.clamp_min(0), anchors >= 0, keys.clamp_max(spans.len_k - 1), keys < stop[..., None],
            near.clamp_min(0), near >= 0,
        )  # fmt: skip


def attend_chunk(
    chunk: Chunk, scale: float, gate_scale: float, scores: Tensor, q: Tensor, k_span: Tensor, v_span: Tensor,
    k_near: Tensor, v_near: Tensor,
) -> Tensor:  # fmt: skip
    """Steps 5 and 6 for C queries: scores of the anchors [C, k], q [C, D], keys and values gathered -> out [C, Dv]."""
    gate = (gate_scale * scores).masked_fill(~chunk.has_anchor, -1e9).softmax(-1)
    count, n = k_span.shape[1:3]
    far = scale * torch.einsum("cd,ckjd->ckj", q, k_span)
    near = scale * torch.einsum("cd,cwd->cw", q, k_near)
    joint = torch.cat([far, near[:, None].expand(-1, count, -1)], -1)  # [C, k, n + W]
    seen = torch.cat([chunk.has_key, chunk.has_near[:, None].expand(-1, count, -1)], -1)
    joint = joint.masked_fill(~seen, -torch.inf).masked_fill(~seen.any(-1, keepdim=True), 0.0)
    weight = joint.softmax(-1) * seen * gate[..., None]
    out = torch.einsum("ckj,ckjd->cd", weight[..., :n], v_span)
    out = out + torch.einsum("cw,cwd->cd", weight[..., n:].sum(1), v_near)
    if not out.detach().isfinite().all():  # what was gathered for want of a key must not count: 0 times NaN is NaN
        v_span, v_near = (
            v_span.masked_fill(~chunk.has_key[..., None], 0),
            v_near.masked_fill(~chunk.has_near[..., None], 0),
        )
        out = torch.einsum("ckj,ckjd->cd", weight[..., :n], v_span)
        out = out + torch.einsum("cw,cwd->cd", weight[..., n:].sum(1), v_near)
    return out


def chunked_attention(q: Tensor, k: Tensor, v: Tensor, spans: Spans, scale: float, gate_scale: float) -> Tensor:
    """q [B, Hq, Lq, D], k [B, Hkv, Lk, D], v [B, Hkv, Lk, Dv] -> out [B, Hq, Lq, Dv]; gates from ``spans.scores``."""
    out, query = q.new_empty(*q.shape[:3], v.shape[3]), flat(q)
    for c in chunks(q, k, v, spans):
        rows, kv, _ = c.queries
        gathered = (gather(x, kv, index) for index in (c.keys, c.near) for x in (k, v))
        own = query[rows].to(accumulator(q.dtype))
        part = attend_chunk(c, scale, gate_scale, flat(spans.scores)[rows], own, *gathered)
        flat(out)[rows] = part.to(q.dtype)
    return out


def chunked_gradients(
    grad: Tensor, spans: Spans, scale: float, gate_scale: float, q_search: Tensor, k_search: Tensor, q: Tensor,
    k: Tensor, v: Tensor,
) -> list[Tensor]:  # fmt: skip
    """Gradients of q_search, k_search, q, k, v in the softmax dtype from ``grad`` [B, Hq, Lq, Dv]."""
    totals = [torch.zeros(x.shape, dtype=accumulator(q.dtype), device=q.device) for x in (q_search, k_search, q, k, v)]
    d_search, d_keys, d_q, d_k, d_v = (flat(x) for x in totals)
    mine, grad = (flat(q_search), flat(q)), flat(grad)
    for c in chunks(q, k, v, spans):
        rows, kv, _ = c.queries
        sources = (
            (k_search, c.anchors, d_keys),
            (k, c.keys, d_k),
            (v, c.keys, d_v),
            (k, c.near, d_k),
            (v, c.near, d_v),
        )
        gathered = (gather(x, kv, index) for x, index, _ in sources)
        parts = [x.requires_grad_() for x in (*(x[rows].to(d_q.dtype, copy=True) for x in mine), *gathered)]
        with torch.enable_grad():
            scores = torch.einsum("cd,ckd->ck", parts[0], parts[2])
            out = attend_chunk(c, scale, gate_scale, scores, parts[1], *parts[3:])
        d_search[rows], d_q[rows], *rest = torch.autograd.grad(out, parts, grad[rows].to(d_q.dtype))
        for (x, index, total), part in zip(sources, rest, strict=True):
            place = index + x.shape[2] * kv.view(-1, *(1,) * (index.ndim - 1))
            total.index_add_(0, place.reshape(-1), flat(part))
    return totals


class SpanAttention(torch.autograd.Function):
    """Steps 5 and 6 with gradients: forward as without; backward recomputes its scores, in linear memory."""

    @staticmethod
    def forward(
        ctx: Any, q_search: Tensor, k_search: Tensor, q: Tensor, k: Tensor, v: Tensor, spans: Spans, scale: float,
        gate_scale: float, forward: Forward, gradients: Gradients,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(q_search, k_search, q, k, v)
        ctx.rest, ctx.gradients = (spans, scale, gate_scale), gradients
        return forward(q, k, v, spans, scale, gate_scale)

    @staticmethod
    @first_order_only
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved: tuple[Tensor, ...] = ctx.saved_tensors
        grads = ctx.gradients(grad, *ctx.rest, *saved)
        return *(g.to(x.dtype) for g, x in zip(grads, saved, strict=True)), None, None, None, None, None


def attend_by(
    forward: Forward, gradients: Gradients, q: Tensor, k: Tensor, v: Tensor, selection: Spans, scale: float | None,
    settings: Settings,
) -> Tensor:  # fmt: skip
    """Section 3.3, steps 5 and 6: attention in the spans found, mixed by the gates; differentiable.

    The gates carry gradients to ``q_search`` and ``k`` unless ``settings.routing_gradient`` is off, the spans to ``q``,
    ``k`` and ``v``.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if not wants_gradient(q, k, v, settings.q_search):
        return forward(q, k, v, selection, scale, settings.gate_scale)
    routing = settings.queries(q), accumulated(k, settings.accumulate)
    if not settings.routing_gradient:
        routing = routing[0].detach(), routing[1].detach()
    out: Tensor = SpanAttention.apply(  # type: ignore[no-untyped-call]
        *routing, q, k, v, selection, scale, settings.gate_scale, forward, gradients
    )
    return out


def attend(
    q: Tensor, k: Tensor, v: Tensor, selection: Spans, *, causal: bool = True, scale: float | None = None,
    settings: Settings,
) -> Tensor:  # fmt: skip
    """``attend_by`` chunk by chunk."""
    return attend_by(chunked_attention, chunked_gradients, q, k, v, selection, scale, settings)
