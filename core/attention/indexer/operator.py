"""An indexer and token attention as one operator: what ``dsa`` and ``hisa`` share.

Without an index branch (methods/hisa.md, 3.4) the query heads of one key/value head are the index heads, with weights
1/group, and that head's keys are the index keys; the heads of the group share the selection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...choose import Formulation, choose
from ..contract import Cost, Golden, Shape
from ..equations import accumulator, wants_gradient
from ..tokens.attend import LISTS, TokenSelection, token_attention
from .attend_cpu import attend as attend_in_one
from .decode import IndexDecoder, index_keys, index_queries
from .index import TokenIndex
from .module import Quant, head_weights, index_scores
from .search import SEARCH

MakeIndex = Callable[[Tensor], TokenIndex]
_ROWS = 4096  # queries that are searched for and attended to together


def windows(len_q: int, len_k: int, causal: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """The tokens [ks, ke) that each query sees, int64 [Lq] each."""
    last = torch.arange(len_k - len_q + 1, len_k + 1, device=device)
    ke = last if causal else torch.full_like(last, len_k)
    return torch.zeros_like(ke), ke


def dense_scores(q: Tensor, k: Tensor, quant: Quant) -> Tensor:
    """Index scores [B, Hkv, Lq, Lk] of all pairs: for references only."""
    group = q.shape[1] // k.shape[1]
    queries = (
        index_keys(q, quant).reshape(q.shape[0], k.shape[1], group, *q.shape[2:]).transpose(2, 3)
    )  # [B, Hkv, Lq, g, D]
    return index_scores(queries, index_keys(k, quant), head_weights(queries))


def search(
    q: Tensor, k: Tensor, make_index: MakeIndex, *, causal: bool, quant: Quant, top_k: int, engine: Formulation
) -> Tensor:
    """Chosen tokens of every key/value head and query: int32 [B, Hkv, Lq, min(top_k, Lk)]. ``engine`` of ``SEARCH``."""
    q, k = q.detach(), k.detach()
    batch, kv_heads, len_k = k.shape[:3]
    positions = torch.empty(batch, kv_heads, q.shape[2], min(top_k, len_k), dtype=torch.int32, device=k.device)
    ks, ke = windows(q.shape[2], len_k, causal, q.device)
    for b in range(batch):
        for h in range(kv_heads):
            index = make_index(index_keys(k[b, h], quant))
            queries, weights = index_queries(q[b], h, kv_heads, quant)
            engine.function(queries, weights, index, ks, ke, positions[b, h])
    return positions


def run(
    q: Tensor, k: Tensor, v: Tensor, make_index: MakeIndex, *, causal: bool, scale: float | None, quant: Quant,
    top_k: int, backend: str,
) -> Tensor:  # fmt: skip
    """Search and attend, a block of queries at a time, so that no list outlives its block; [B, Hq, Lq, Dv]."""
    engine, over_lists = choose(SEARCH, (q,), backend), choose(LISTS, (q,), backend)
    if wants_gradient(q, k, v):
        positions = search(q, k, make_index, causal=causal, quant=quant, top_k=top_k, engine=engine)
        return token_attention(q, k, v, positions, scale, over_lists)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    group, len_q, len_k = q.shape[1] // k.shape[1], q.shape[2], k.shape[2]
    ks, ke = windows(len_q, len_k, causal, q.device)
    # the products searched are those attended by; NaN is infinity to the search, which a scale below 0 would hide
    in_one = engine.backend == "cpu" and quant == "none" and scale >= 0
    tokens = torch.empty(0 if in_one else min(_ROWS, len_q), min(top_k, len_k), dtype=torch.int32, device=q.device)
    out = q.new_empty(*q.shape[:3], v.shape[-1])
    for b in range(k.shape[0]):
        for h in range(k.shape[1]):
            heads = slice(h * group, (h + 1) * group)
            index = make_index(index_keys(k[b, h], quant))
            if in_one:
                attend_in_one(q[b, heads], v[b, h], index, ks, ke, scale, out[b, heads])
                continue
            dtype = accumulator(q.dtype)  # converted here, not block by block
            keys, values = (x[b, h].to(dtype).contiguous()[None, None] for x in (k, v))  # [1, 1, Lk, D]
            for start in range(0, len_q, _ROWS):
                rows = slice(start, min(start + _ROWS, len_q))
                queries, weights = index_queries(q[b, :, rows], h, k.shape[1], quant)
                found = engine.function(queries, weights, index, ks[rows], ke[rows], tokens[: queries.shape[0]])
                piece = q[None, b, heads, rows].to(dtype)
                part = over_lists.function(piece, keys, values, found[None, None], scale)
                out[b, heads, rows] = part[0].to(q.dtype)
    return out


def decoder(
    q: Tensor, k: Tensor, v: Tensor, make_index: MakeIndex, *, scale: float | None, quant: Quant, top_k: int
) -> Callable[[], Tensor]:  # fmt: skip
    """Prepare the whole cache; the function returned searches and attends for the last query: [B, Hq, 1, Dv]."""
    session, query = IndexDecoder(make_index, scale=scale, quant=quant, top_k=top_k), q[:, :, -1:].detach()
    session.take(k.detach())
    keys, values = k.detach(), v.detach()
    return lambda: session.attend(query, keys, values)


def attend(
    q: Tensor, k: Tensor, v: Tensor, selection: TokenSelection, *, causal: bool, scale: float | None = None,
    settings: Any, engine: Formulation,
) -> Tensor:  # fmt: skip
    """Token attention to what ``search`` found: second phase of both operators."""
    return token_attention(q, k, v, selection.indices, scale, engine)


def visible(shape: Shape) -> tuple[float, Callable[[int], float]]:
    """Mean number of keys that a query sees, and a function: the mean of min(cap, that number)."""
    first = shape.len_k - shape.len_q + 1 if shape.causal else shape.len_k  # seen by the first query

    def capped(cap: int) -> float:
        if not shape.causal or first >= cap:
            return float(min(cap, first))
        below = min(shape.len_k, cap) - first + 1  # queries that see at most cap keys: first, first + 1, ...
        return (below * (2 * first + below - 1) / 2 + (shape.len_q - below) * cap) / max(1, shape.len_q)

    return capped(shape.len_k), capped


def predict(shape: Shape, *, searched: float, attended: float) -> Cost:
    """Cost of scoring ``searched`` and attending to ``attended`` keys per query."""
    rows = shape.batch * shape.num_heads * shape.len_q
    flops = rows * (2 * shape.head_dim * searched + 2 * (shape.head_dim + shape.value_dim) * attended)
    width = shape.head_dim + shape.value_dim
    once = shape.batch * (shape.num_heads * shape.len_q + shape.num_kv_heads * shape.len_k) * width
    gathered = shape.batch * shape.num_kv_heads * shape.len_q * attended * width
    return Cost(flops, shape.itemsize * (once + gathered), searched, attended)


GOLDEN = Golden(
    "hisa", "attn.core.attention.indexer.golden:check", ("indexer_module", "pipeline_B32", "pipeline_packed_ragged")
)
"""Of both indexers."""
