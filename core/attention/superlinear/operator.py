"""Superlinear attention: a query scores a power-law comb of about sqrt(L) anchors, then attends to spans at the best.

Paper: "Superlinear Multi-Step Attention", arXiv 2601.18401 (2026). Specification: methods/superlinear.md, sections
3.1-3.7; step numbers are its numbers.

The paper's search has N steps, each of which narrows what the one before left, at a cost of L^(1 + 1/N). Published, and
defined by the specification, is N = 2: span search, then span attention. What can be varied is the comb:
``inv_search_power_int`` n puts L^(1/n) anchors on it. The gaps of that comb grow as n L^(1 - 1/n), so that without the
further steps every key stays reachable only with ``span_power >= 1 - 1/n`` and ``backward_factor >= n`` (section 3.5).

Differs from the official code: the window is measured from the position of the query for every power (pitfall 5), and
span lengths are computed in float64, exact where t is a perfect square (pitfall 1).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...choose import Formulation, Phase
from ..contract import Cost, Golden, Operator, Shape
from ..equations import accumulator, masked_attention, needs_cpu_floats, positions, repeat_kv
from ..tokens.top_k import ranked
from .comb import Spans, accumulated, spans_of
from .settings import Settings

FEW = 16
"""Queries up to which gathering keys is faster than the kernels, which convert them all."""


def _refuses(q: Tensor, *_: Any, **__: Any) -> str | None:
    return needs_cpu_floats(q) or (None if q.shape[2] > FEW else f"takes more than {FEW} queries, not {q.shape[2]}")


def reference(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = True, scale: float | None = None, settings: Settings
) -> Tensor:
    """Steps 1-6, dense: all scores, masks of Lq x Lk."""
    len_q, len_k, num_spans = q.shape[2], k.shape[2], settings.num_spans
    tables = settings.tables(len_q, len_k, q.device)
    keys = repeat_kv(accumulated(k, settings.accumulate).to(accumulator(k.dtype)), q.shape[1])
    dense = settings.queries(q).to(keys.dtype) @ keys.mT  # [B, Hq, Lq, Lk]
    here = positions(len_q, len_k, q.device)[:, None]
    anchors = (here + 1 - tables.steps.flip(0)).expand(*dense.shape[:2], -1, -1)  # [B, Hq, Lq, S], far to near
    scores = ranked(dense.gather(-1, anchors.clamp_min(0))).masked_fill(anchors < 0, -torch.inf)
    missing = num_spans - anchors.shape[-1]
    if missing > 0:
        scores = torch.nn.functional.pad(scores, (0, missing), value=-torch.inf)
        anchors = torch.nn.functional.pad(anchors, (0, missing), value=-1)
    # Stable: of equal scores the farther anchor wins, as in the official kernels (pitfall 10).
    scores, order = scores.sort(dim=-1, descending=True, stable=True)
    scores, anchors = scores[..., :num_spans], anchors.gather(-1, order)[..., :num_spans]
    anchors = anchors.masked_fill(scores == -torch.inf, -1)
    start, stop = spans_of(anchors, tables, len_k)
    if not settings.routing_gradient:
        scores = scores.detach()
    gate = (settings.gate_scale * scores).masked_fill(anchors < 0, -1e9).softmax(-1)
    key = torch.arange(len_k, device=q.device)
    near = (key <= here) & (key > here - tables.window)  # [Lq, Lk]
    out = keys.new_zeros(())
    for j in range(num_spans):
        span = (key >= start[..., j, None]) & (key < stop[..., j, None])  # [B, Hq, Lq, Lk]
        out = out + gate[..., j, None] * masked_attention(q, k, v, span | near, scale=scale)
    return out.to(q.dtype)


SEARCH = Phase(
    "superlinear",
    (
        Formulation("anchor search, numba", "cpu", "attn.core.attention.superlinear.search_cpu:search", _refuses),
        Formulation("anchor search, torch", "torch", "attn.core.attention.superlinear.spans:chunked_search"),
    ),
)
"""``search(q, k, steps, num_spans) -> scores, anchors``."""


def _select(
    q: Tensor, k: Tensor, *, causal: bool = True, scale: float | None = None, settings: Settings, engine: Formulation
) -> Spans:
    """Section 3.2, steps 1-4: the best anchors of every query and their spans. The choice has no gradient."""
    len_q, len_k = q.shape[2], k.shape[2]
    tables = settings.tables(len_q, len_k, q.device)
    with torch.no_grad():
        keys = accumulated(k, settings.accumulate)
        scores, anchors = engine.function(settings.queries(q), keys, tables.steps, settings.num_spans)
        start, stop = spans_of(anchors, tables, len_k)
    seen = positions(len_q, len_k, q.device) + 1  # keys that a query sees
    per_head = int(torch.searchsorted(tables.steps, seen, right=True).sum())
    return Spans(anchors, scores, start, stop, tables.window, len_k, per_head * q.shape[0] * q.shape[1])


SELECT = SEARCH.used_by("superlinear", _select)
ATTEND = Phase(
    "superlinear",
    (
        Formulation("spans, numba", "cpu", "attn.core.attention.superlinear.attend_cpu:attend", _refuses),
        Formulation("spans, torch", "torch", "attn.core.attention.superlinear.spans:attend"),
    ),
)


def cost(shape: Shape, *, settings: Settings) -> Cost:
    """Section 7: anchors of every query, and spans of full length (those near the first key are shorter)."""
    len_q, len_k, head_dim, value_dim = shape.len_q, shape.len_k, shape.head_dim, shape.value_dim
    num_spans, tables = settings.num_spans, settings.tables(len_q, len_k)
    seen = positions(len_q, len_k) + 1  # keys that a query sees
    anchors = torch.searchsorted(tables.steps, seen, right=True)
    outside = (seen - tables.window).clamp_min(0)
    length = torch.minimum(tables.backward + tables.forward + 1, outside)
    attended = float((anchors.clamp_max(num_spans) * length + seen.clamp_max(tables.window)).double().mean())
    searched = float(anchors.double().mean())
    rows = shape.batch * shape.num_heads * shape.len_q
    flops = rows * (2.0 * head_dim * searched + 2.0 * (head_dim + value_dim) * attended)
    cache = shape.batch * shape.num_kv_heads * len_k * (head_dim + value_dim)
    unique = (cache + rows * (head_dim + value_dim)) * shape.itemsize
    partial = 4 * rows * (num_spans + 1) * (head_dim + 2 * value_dim)  # queries gathered, span outputs written and read
    return Cost(flops, float(unique + partial), searched, attended)


def at_budget(keys: int, shape: Shape) -> dict[str, float]:
    """Parameters for about ``keys`` keys per query, search included: the spans get what comb and window leave."""
    base = cost(shape, settings=Settings())
    seen = (positions(shape.len_q, shape.len_k) + 1).double()
    window = float(seen.clamp_max(80).mean())
    left = keys - base.searched - window
    return {"backward_factor": max(0.25, left / (3 * float(seen.sqrt().mean())))}


OPERATOR = Operator(
    settings=Settings,
    reference=reference,
    phases=(SELECT, ATTEND),
    cost=cost,
    at_budget=at_budget,
    causal=(True,),
    differentiable=True,
    small={"sw_index": 3},
    golden=Golden(
        "superlinear",
        "attn.core.attention.superlinear.golden:check",
        ("n2_sw1_k2", "n2_sw2_k3_fwd", "p054_sw1_k3", "decode_pos300", "tables"),
    ),
)
