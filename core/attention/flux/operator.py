"""Flux attention: a router sends a whole layer to full or to sparse attention, once per prompt.

Paper: arXiv 2604.07394. Specification: methods/flux-attention.md, sections 3.1-3.5 and 7.
``route="auto"`` asks a ``LayerRouter``, per sample. Sparse modes: ``streaming`` (first and latest blocks), ``triangle``
(the same, the last queries dense), ``xattn`` (blocks chosen by antidiagonal sums); a single query is a decode step.
"""

from __future__ import annotations

import itertools
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from ...choose import Formulation, in_torch
from ...opaque import own_dtypes
from ..blocks.selection import ENGINE, BlockSelection, attend_blocks
from ..contract import Condition, Cost, Golden, Operator, Shape
from ..dense import OPERATOR as DENSE
from ..dense import compulsory_bytes, first_and_latest
from ..equations import causal_mask, masked_attention, positions
from ..fields import one_node
from .router import Decision
from .selection import FluxSelection, streaming_mask
from .settings import Settings
from .xattention import xattention_mask


def route_full(q: Tensor, k: Tensor, settings: Settings) -> Tensor:
    """Which samples go to full attention: [B], 1 or 0; with a gradient where the router is in training mode."""
    if settings.route != "auto":
        return q.new_full((q.shape[0],), float(settings.route == "full"))
    if settings.router is None:
        raise ValueError("route='auto' needs router=LayerRouter(head_dim); or pass route='sparse' or 'full'.")
    given = settings.router_input
    if given is None and q.shape[2] < k.shape[2]:
        raise ValueError(
            "the route is decided once, at prefill: pass route='full' or 'sparse' as it was decided, or router_input."
        )
    queries = q if given is None else given
    with own_dtypes(queries.device.type):
        decision: Decision = settings.router(queries)
    if decision.full.shape[0] != q.shape[0]:
        raise ValueError(f"router_input has {decision.full.shape[0]} samples, q has {q.shape[0]}.")
    return decision.full


def select(
    q: Tensor, k: Tensor, *, causal: bool = True, scale: float | None = None, settings: Settings
) -> FluxSelection:
    """The blocks of each query: all of them for samples routed to full attention, section 3.4 for the others."""
    return _select(q, k, route_full(q, k, settings).detach() > 0.5, settings, scale)


def _select(q: Tensor, k: Tensor, full: Tensor, settings: Settings, scale: float | None) -> FluxSelection:
    """``select`` for samples whose route is known: ``full`` bool [B]."""
    batch, heads, len_q, _ = q.shape
    len_k, block = k.shape[2], settings.block_size
    offset, decode = len_k - len_q, len_q == 1
    whole = not len_q or bool(batch and full.all()) or (decode and settings.mode == "xattn")
    dense = max(0, len_q - settings.last) if settings.mode == "triangle" and not decode else len_q  # first dense row
    chosen, searched = None, 0
    if settings.mode == "xattn" and not whole:
        chosen = xattention_mask(
            q, k, block_size=block, stride=settings.stride, threshold=settings.threshold, chunk=settings.chunk,
            rule=settings.xattn_rule, scale=scale,
        )  # fmt: skip
        searched = Shape(batch, heads, 1, len_q, len_k, 1, 1, causal=True).pairs // settings.stride
    edges = (0, len_q) if whole else tuple(sorted({0, min(-offset % block, len_q), dense, len_q}))
    parts = []
    for start, stop in itertools.pairwise(edges):
        seen = offset + stop  # keys up to the last of these rows
        cols, tile = torch.arange(-(-seen // block), device=q.device), block
        if whole or start >= dense:
            mask = torch.ones(1, 1, -(-(stop - start) // block), cols.numel(), dtype=torch.bool, device=q.device)
        else:
            rows = torch.arange((offset + start) // block, cols.numel(), device=q.device)
            if chosen is None:
                mask = streaming_mask(rows, cols, settings.sink_blocks, settings.local_blocks)
            else:
                mask = chosen[:, :, rows - offset // block, : cols.numel()]
            mask = mask | full[:, None, None, None]
            if (offset + start) % block:
                tile = stop - start  # what is there of the first block
        mask = mask.expand(batch, heads, -1, -1)
        part = BlockSelection.from_mask(
            mask, block_m=tile, block_n=block, len_q=stop - start, len_k=seen, causal=True
        )  # fmt: skip
        parts.append(part)
    return FluxSelection(edges, tuple(parts), searched)


def attend(
    q: Tensor, k: Tensor, v: Tensor, selection: FluxSelection, *, causal: bool = True, scale: float | None = None,
    settings: Settings, engine: Formulation, return_lse: bool = False,
) -> Any:  # fmt: skip
    """Section 3.5, step 5: softmax attention over the tokens of the kept blocks."""
    results = [
        attend_blocks(
            q[:, :, start:stop], k[:, :, : part.len_k], v[:, :, : part.len_k], part, scale=scale, return_lse=True,
            engine=engine,
        )
        for (start, stop), part in zip(itertools.pairwise(selection.edges), selection.parts, strict=True)
    ]  # fmt: skip
    out, lse = results[0] if len(results) == 1 else (torch.cat(x, dim=2) for x in zip(*results, strict=True))
    return (out, lse) if return_lse else out


ATTEND = ENGINE.used_by("flux", attend)


def reference(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = True, scale: float | None = None, settings: Settings
) -> Tensor:
    """Section 3.3 with dense masks."""
    batch, heads, len_q, _ = q.shape
    len_k, block = k.shape[2], settings.block_size
    seen = causal_mask(len_q, len_k, q.device)  # [Lq, Lk]
    rows, cols = positions(len_q, len_k, q.device) // block, torch.arange(len_k, device=q.device) // block
    if settings.mode != "xattn":
        mask = streaming_mask(rows, cols, settings.sink_blocks, settings.local_blocks).expand(batch, heads, -1, -1)
    elif len_q == 1:
        mask = seen.expand(batch, heads, -1, -1)
    else:
        blocks = xattention_mask(
            q, k, block_size=block, stride=settings.stride, threshold=settings.threshold, chunk=settings.chunk,
            rule=settings.xattn_rule, scale=scale,
        )  # fmt: skip
        mask = blocks[:, :, rows - (len_k - len_q) // block][..., cols]
    if settings.mode == "triangle" and len_q > 1:
        mask = mask | (torch.arange(len_q, device=q.device) >= len_q - settings.last)[:, None]
    full = route_full(q, k, settings).to(q.dtype)[:, None, None, None]
    routes = (masked_attention(q, k, v, seen, scale=scale), masked_attention(q, k, v, mask & seen, scale=scale))
    chosen = torch.where(full > 0.5, *routes)  # no product: 0 times NaN is NaN
    return chosen + (full - full.detach()) * (routes[0] - routes[1]) if full.requires_grad else chosen


def routed(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = True, scale: float | None = None, backend: str = "auto",
    settings: Settings, return_lse: bool = False,
) -> Any:  # fmt: skip
    """Flux attention of one layer: the router, which a graph may look into, and then the blocks; differentiable.

    Raises
    ------
    ValueError
        If ``route="auto"`` has no router, or is asked in a decode step without ``router_input``; if the log-sum-exp is
        asked for where a router in training mode mixes two attentions.

    References
    ----------
    methods/flux-attention.md, sections 3.2-3.5.
    """
    full = route_full(q, k, settings)
    if return_lse:
        if full.requires_grad:
            raise ValueError("a router in training mode mixes two attentions, which have no log-sum-exp: call eval().")
        return _blocked(q, k, v, full=full, scale=scale, backend=backend, settings=settings, return_lse=True)
    rest = {"scale": scale, "backend": backend, **{name: getattr(settings, name) for name in PLAIN}}
    if not full.requires_grad:
        return BLOCKED(q, k, v, full=full, **rest)
    sparse = BLOCKED(q, k, v, full=torch.zeros_like(full), **rest)
    share = full.to(q.dtype)[:, None, None, None]
    return share * DENSE.blocked(q, k, v, causal=True, scale=scale, backend=backend) + (1 - share) * sparse


def _blocked(
    q: Tensor, k: Tensor, v: Tensor, *, full: Tensor, scale: float | None, backend: str, settings: Settings,
    return_lse: bool = False,
) -> Any:  # fmt: skip
    """``routed`` for samples whose route is known: ``full`` [B], 1 or 0."""
    given: dict[str, Any] = {"causal": True, "scale": scale, "backend": backend}
    dense = DENSE.with_lse if return_lse else DENSE.blocked
    if bool((full > 0.5).all()) or not q.shape[2]:
        return dense(q, k, v, **given)
    if q.shape[2] == 1 and settings.mode != "xattn" and not bool((full > 0.5).any()):
        return dense(q, *_decode_keys(k, v, settings), **given)
    selection = _select(q, k, full > 0.5, settings, scale)
    return ATTEND(q, k, v, selection, settings=settings, return_lse=return_lse, **given)


_ROUTING = ("route", "router", "router_input")
PLAIN = tuple(own.name for own in fields(Settings) if own.name not in _ROUTING)
BLOCKED = one_node(
    _blocked, Settings, name="blocked", module=__name__, without=_ROUTING,
    options={"full": (Tensor,), "scale": (float | None, None), "backend": (str, "auto")},
)  # fmt: skip


def _decode_keys(k: Tensor, v: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """What one query of each head sees, once for the query heads that share it; half the time."""
    block = settings.block_size
    latest = max(0, (k.shape[2] - 1) // block - settings.local_blocks + 1) * block  # first of the local keys
    return first_and_latest(k, v, settings.sink_blocks * block, latest)


def cost(shape: Shape, *, settings: Settings) -> Cost:
    """Section 7. ``xattn`` keeps at most about ``threshold`` of the pairs, fewer where attention is not uniform.

    A route that is still to be decided counts as full attention.
    """
    queries = max(1, shape.batch * shape.num_heads * shape.len_q)
    visible, searched = shape.pairs / queries, 0.0
    attended = visible
    if settings.route != "sparse" or (settings.mode == "xattn" and shape.len_q == 1):
        pass
    elif settings.mode == "xattn":
        attended, searched = settings.threshold * visible, visible / settings.stride
    else:
        at, block = positions(shape.len_q, shape.len_k), settings.block_size
        latest = (at // block - settings.local_blocks + 1).clamp(min=0) * block  # first of the local keys
        keys = at + 1 - latest + latest.clamp(max=settings.sink_blocks * block)
        if settings.mode == "triangle" and shape.len_q > 1:
            tail = max(0, shape.len_q - settings.last)
            keys[tail:] = at[tail:] + 1
        attended = float(keys.double().mean()) if shape.len_q else 0.0
    width = shape.head_dim + shape.value_dim
    flops = 2.0 * queries * (attended * width + searched * shape.head_dim)
    gathered = queries * attended * width * shape.itemsize / settings.block_size
    return Cost(flops, compulsory_bytes(shape) + gathered, searched, attended)


def at_budget(keys: int, shape: Shape) -> dict[str, Any]:
    """Streaming with as many local blocks as make a query visit about ``keys`` keys, half a block being ahead of it."""
    block = Settings.block_size
    return {"mode": "streaming", "local": max(1, round((keys - Settings.sink + block / 2) / block)) * block}


def _mode(*modes: str) -> Condition:
    return Condition(f"mode={' or '.join(map(repr, modes))}", lambda params: params["mode"] in modes)


_CONDITIONS = {
    **dict.fromkeys(("sink", "local"), _mode("streaming", "triangle")),
    "last": _mode("triangle"),
    **dict.fromkeys(("stride", "threshold", "xattn_rule", "chunk"), _mode("xattn")),
    **dict.fromkeys(("router", "router_input"), Condition("route='auto'", lambda params: params["route"] == "auto")),
}
OPERATOR = Operator(
    settings=Settings,
    reference=reference,
    phases=(in_torch("flux", select), ATTEND),
    cost=cost,
    whole=routed,
    at_budget=at_budget,
    causal=(True,),
    conditions=_CONDITIONS,
    differentiable=True,
    returns_lse=True,
    small={"sink": 16, "local": 64, "block_size": 16},
    golden=Golden(
        "flux-attention",
        "attn.core.attention.flux.golden:check",
        ("router", "streaming_triangle", "xattn_ragged", "xattn_single_chunk"),
    ),
)
