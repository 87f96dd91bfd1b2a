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

import math
from typing import Literal

import torch
from torch import Tensor

from ...opaque import opaque
from ..contract import Cost, Golden, Shape, Unphased
from ..equations import accumulator, attention_result, masked_attention, positions, repeat_kv
from ..tokens.top_k import ranked
from .comb import UPSCALED_POWER, Spans, accumulated, comb, spans_of
from .search_cpu import search
from .spans import FEW, SpanAttention, chunked_search, forward


def check_parameters(
    q: Tensor, num_spans: int, sw_index: int, inv_search_power_int: int, search_power: float | None, span_power: float,
    backward_factor: float, forward_factor: float, preset: str, q_search: Tensor | None,
) -> None:  # fmt: skip
    """Raise ``ValueError`` for what is out of range."""
    if num_spans < 1:
        raise ValueError(f"num_spans is {num_spans}: at least one span per query is needed; 2 to 8 are usual.")
    if sw_index < 0:
        raise ValueError(f"sw_index is {sw_index}: use 0 for no window, 8 for 80 keys.")
    if not 2 <= inv_search_power_int <= 6:
        raise ValueError(f"inv_search_power_int is {inv_search_power_int}: use 2 to 6.")
    if search_power is not None and inv_search_power_int != 2:
        raise ValueError("search_power and inv_search_power_int exclude each other: give one of them.")
    if search_power is not None and not 0 < search_power < 1:
        raise ValueError(f"search_power is {search_power}: use a number between 0 and 1; 0.5 is the square root.")
    if not 0 < span_power < 1:
        raise ValueError(f"span_power is {span_power}: use a number between 0 and 1; 0.5 is the square root.")
    if not 0 < backward_factor < math.inf:
        raise ValueError(f"backward_factor is {backward_factor}: it must be positive; 2 leaves no gap.")
    if not 0 <= forward_factor < math.inf:
        raise ValueError(f"forward_factor is {forward_factor}: it must not be negative.")
    if preset not in ("default", "upscaled"):
        raise ValueError(f"preset is default or upscaled, not {preset!r}.")
    if preset == "upscaled" and (search_power is not None or inv_search_power_int != 2):
        raise ValueError(f"preset='upscaled' sets search_power to {UPSCALED_POWER}: give one of them.")
    if q_search is not None and (q_search.shape != q.shape or q_search.dtype != q.dtype):
        raise ValueError(
            f"q_search must look like q: {list(q.shape)} {q.dtype}, got {list(q_search.shape)} {q_search.dtype}."
        )


@opaque(attention_result)
def reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = True,
    scale: float | None = None,
    num_spans: int = 3,
    sw_index: int = 8,
    inv_search_power_int: int = 2,
    search_power: float | None = None,
    span_power: float = 0.5,
    backward_factor: float = 2.0,
    forward_factor: float = 0.0,
    gate_scale: float = 1.0,
    accumulate: str | None = None,
    preset: Literal["default", "upscaled"] = "default",
    q_search: Tensor | None = None,
) -> Tensor:
    """Steps 1-6, dense: all scores, masks of Lq x Lk. Parameters as in ``blocked``."""
    check_parameters(
        q, num_spans, sw_index, inv_search_power_int, search_power, span_power, backward_factor, forward_factor, preset,
        q_search,
    )  # fmt: skip
    power = UPSCALED_POWER if preset == "upscaled" else search_power
    len_q, len_k = q.shape[2], k.shape[2]
    tables = comb(len_q, len_k, sw_index, inv_search_power_int, power, span_power, backward_factor, forward_factor)
    keys = repeat_kv(accumulated(k, accumulate).to(accumulator(k.dtype)), q.shape[1])
    dense = (q if q_search is None else q_search).to(keys.dtype) @ keys.mT  # [B, Hq, Lq, Lk]
    here = positions(len_q, len_k)[:, None]
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
    gate = (gate_scale * scores).masked_fill(anchors < 0, -1e9).softmax(-1)
    key = torch.arange(len_k)
    near = (key <= here) & (key > here - tables.window)  # [Lq, Lk]
    out = torch.zeros((), dtype=keys.dtype)
    for j in range(num_spans):
        span = (key >= start[..., j, None]) & (key < stop[..., j, None])  # [B, Hq, Lq, Lk]
        out = out + gate[..., j, None] * masked_attention(q, k, v, span | near, scale=scale)
    return out.to(q.dtype)


def select(
    q: Tensor,
    k: Tensor,
    *,
    causal: bool = True,
    scale: float | None = None,
    num_spans: int = 3,
    sw_index: int = 8,
    inv_search_power_int: int = 2,
    search_power: float | None = None,
    span_power: float = 0.5,
    backward_factor: float = 2.0,
    forward_factor: float = 0.0,
    gate_scale: float = 1.0,
    accumulate: str | None = None,
    preset: Literal["default", "upscaled"] = "default",
    q_search: Tensor | None = None,
) -> Spans:
    """Section 3.2, steps 1-4: the best anchors of every query and their spans. Parameters as in ``blocked``."""
    check_parameters(
        q, num_spans, sw_index, inv_search_power_int, search_power, span_power, backward_factor, forward_factor, preset,
        q_search,
    )  # fmt: skip
    power = UPSCALED_POWER if preset == "upscaled" else search_power
    len_q, len_k = q.shape[2], k.shape[2]
    tables = comb(len_q, len_k, sw_index, inv_search_power_int, power, span_power, backward_factor, forward_factor)
    with torch.no_grad():
        keys = accumulated(k, accumulate)
        find = chunked_search if q.dtype == torch.float64 or len_q <= FEW else search
        scores, anchors = find(q if q_search is None else q_search, keys, tables.steps, num_spans)
        start, stop = spans_of(anchors, tables, len_k)
    per_head = int(torch.searchsorted(tables.steps, positions(len_q, len_k) + 1, right=True).sum())
    return Spans(anchors, scores, start, stop, tables.window, len_k, per_head * q.shape[0] * q.shape[1])


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    selection: Spans,
    *,
    causal: bool = True,
    scale: float | None = None,
    gate_scale: float = 1.0,
    accumulate: str | None = None,
    q_search: Tensor | None = None,
) -> Tensor:
    """Section 3.3, steps 5 and 6: attention in the spans found, mixed by the gates. Parameters as in ``blocked``."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    inputs = [t for t in (q, k, v, q_search) if t is not None]
    if torch.is_grad_enabled() and any(t.requires_grad for t in inputs):
        queries = q if q_search is None else q_search
        out: Tensor = SpanAttention.apply(queries, accumulated(k, accumulate), q, k, v, selection, scale, gate_scale)  # type: ignore[no-untyped-call]
        return out
    return forward(q, k, v, selection, scale, gate_scale)


@opaque(attention_result)
def blocked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = True,
    scale: float | None = None,
    num_spans: int = 3,
    sw_index: int = 8,
    inv_search_power_int: int = 2,
    search_power: float | None = None,
    span_power: float = 0.5,
    backward_factor: float = 2.0,
    forward_factor: float = 0.0,
    gate_scale: float = 1.0,
    accumulate: str | None = None,
    preset: Literal["default", "upscaled"] = "default",
    q_search: Tensor | None = None,
) -> Tensor:
    """Superlinear attention, causal, in linear memory and about L^1.5 time.

    Parameters
    ----------
    q : Tensor [B, Hq, Lq, D]
        float32, bfloat16, float16 or float64; the last Lq of Lk positions (Lq = 1: decoding).
    k : Tensor [B, Hkv, Lk, D]
    v : Tensor [B, Hkv, Lk, Dv]
    causal : bool
        Only True.
    scale : float, optional
        Factor on q·kᵀ inside the spans; default ``D ** -0.5``. Anchors are scored without a factor.
    num_spans : int
        Spans per query (k of the specification), 2 to 8. Time grows in proportion.
    sw_index : int
        Window index w: with the default comb (w + 1)^2 - 1 keys up to the query's own; 8 gives 80, 0 none.
    inv_search_power_int : int
        n of L^(1/n) anchors, 2 to 6. Larger: fewer anchors, wider gaps.
    search_power : float, optional
        Any power in (0, 1) instead of 1/n; excludes ``inv_search_power_int``.
    span_power, backward_factor, forward_factor : float
        A span reaches ``backward_factor * t ** span_power`` keys before its anchor and ``forward_factor * ..`` after
        it, t the number of keys the query sees.
    gate_scale : float
        Factor on the anchors' scores in the gate's softmax; 1 as published. Below 1 mixes the spans more evenly.
    accumulate : str, optional
        "ema:beta": search among exponential means of the keys, so that an anchor stands for the keys before it.
    preset : {"default", "upscaled"}
        "upscaled": search power 0.54, a denser comb.
    q_search : Tensor [B, Hq, Lq, D], optional
        Search queries of their own; default ``q``.

    Returns
    -------
    Tensor [B, Hq, Lq, Dv], dtype of ``q``.

    Raises
    ------
    ValueError
        If a parameter is out of range, or two exclude each other.

    Notes
    -----
    Differentiable: the choice of anchors is constant, the gates carry gradients to ``q_search`` and ``k``, the spans to
    ``q``, ``k`` and ``v``. The backward pass recomputes the scores, in linear memory.

    References
    ----------
    methods/superlinear.md, section 3; arXiv 2601.18401.
    """
    selection = select(
        q, k, causal=causal, scale=scale, num_spans=num_spans, sw_index=sw_index,
        inv_search_power_int=inv_search_power_int, search_power=search_power, span_power=span_power,
        backward_factor=backward_factor, forward_factor=forward_factor, gate_scale=gate_scale, accumulate=accumulate,
        preset=preset, q_search=q_search,
    )  # fmt: skip
    return attend(
        q, k, v, selection, causal=causal, scale=scale, gate_scale=gate_scale, accumulate=accumulate, q_search=q_search
    )


def cost(
    shape: Shape, *, num_spans: int = 3, sw_index: int = 8, inv_search_power_int: int = 2,
    search_power: float | None = None, span_power: float = 0.5, backward_factor: float = 2.0,
    forward_factor: float = 0.0, gate_scale: float = 1.0, accumulate: str | None = None, preset: str = "default",
    q_search: Tensor | None = None,
) -> Cost:  # fmt: skip
    """Section 7: anchors of every query, and spans of full length (those near the first key are shorter)."""
    power = UPSCALED_POWER if preset == "upscaled" else search_power
    len_q, len_k, head_dim, value_dim = shape.len_q, shape.len_k, shape.head_dim, shape.value_dim
    tables = comb(len_q, len_k, sw_index, inv_search_power_int, power, span_power, backward_factor, forward_factor)
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
    base = cost(shape)
    seen = (positions(shape.len_q, shape.len_k) + 1).double()
    window = float(seen.clamp_max(80).mean())
    left = keys - base.searched - window
    return {"backward_factor": max(0.25, left / (3 * float(seen.sqrt().mean())))}


OPERATOR = Unphased(
    reference=reference,
    blocked=blocked,
    cost=cost,
    select=select,
    attend=attend,
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
