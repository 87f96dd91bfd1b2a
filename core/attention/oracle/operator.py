"""The oracle: every query attends to its ``top_k`` highest-scoring keys, found by computing every score.

The upper bound of what any selection of that many keys can keep, at quadratic time: the search costs what half of dense
attention costs. Equal scores at the cut: the smaller position is chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...opaque import opaque
from ...threads import kernels_own_the_threads, run
from ..contract import Cost, Shape, Unphased
from ..equations import accumulator, attention_result, causal_mask, masked_attention, positions, repeat_kv, weighted_sum
from ..tokens.attend import token_attention
from ..tokens.top_k import ranked, top_k_positions
from .attend_cpu import cut_rows, mean_of_chosen

_SCORES = 1 << 21  # of a chunk of query rows: 8 MiB in float32


@opaque(attention_result)
def reference(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float | None = None, top_k: int = 1024
) -> Tensor:
    """Softmax attention under the mask of each query's ``top_k`` best visible keys."""
    _check(top_k)
    scores = (q @ repeat_kv(k, q.shape[1]).mT) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if causal:
        scores = scores.masked_fill(~causal_mask(q.shape[2], k.shape[2], q.device), -torch.inf)
    return masked_attention(q, k, v, _mask(top_k_positions(scores, top_k), k.shape[2]), scale=scale)


def _check(top_k: int) -> None:
    if top_k < 1:
        raise ValueError(f"top_k {top_k} must be at least 1.")


def _mask(chosen: Tensor, len_k: int) -> Tensor:
    """Positions [..., k], -1 for none -> bool [..., len_k]."""
    mask = torch.zeros(*chosen.shape[:-1], len_k + 1, dtype=torch.bool, device=chosen.device)
    return mask.scatter_(-1, chosen.long() % (len_k + 1), True)[..., :len_k]  # -1 becomes the column cut off


@dataclass(frozen=True)
class OracleSelection:
    """Where each query's scores are cut: chosen is what is above ``cut`` and the first ``ties`` keys equal to it.

    ``cut`` [B, Hq, Lq] in the dtype of the scores, ``ties`` int64 [B, Hq, Lq]: some bytes a query instead of top_k
    positions. ``q`` and ``k`` are kept to name the positions when asked.
    """

    q: Tensor
    k: Tensor
    cut: Tensor
    ties: Tensor
    top_k: int
    causal: bool
    scale: float

    @property
    def useful(self) -> int:
        """Query-key pairs attended to."""
        seen = _seen(self.q, self.k, self.causal)
        return self.q.shape[0] * self.q.shape[1] * int(seen.clamp(max=self.top_k).sum())

    @property
    def searched(self) -> int:
        """Every visible pair."""
        return self.q.shape[0] * self.q.shape[1] * int(_seen(self.q, self.k, self.causal).sum())

    @property
    def executed(self) -> int:
        """Every visible pair again: ``attend`` computes the scores once more and weighs the chosen ones."""
        return self.searched

    def mask(self, rows: Tensor) -> Tensor:
        """bool [B, Hq, R, Lk]."""
        accum, (batch, heads), len_k = accumulator(self.q.dtype), self.q.shape[:2], self.k.shape[2]
        keep = torch.empty(batch, heads, rows.numel(), len_k, dtype=torch.bool, device=rows.device)
        hidden = torch.arange(len_k, device=rows.device) >= _seen(self.q, self.k, self.causal)[rows, None]
        for b in range(batch):
            for h in range(heads):
                key = self.k[b, h // (heads // self.k.shape[1])].to(accum)
                scores = (self.q[b, h, rows].to(accum) * self.scale) @ key.mT  # [R, Lk]
                keep[b, h] = _mask(top_k_positions(scores.masked_fill_(hidden, -torch.inf), self.top_k), len_k)
        return keep


def _seen(q: Tensor, k: Tensor, causal: bool) -> Tensor:
    """How many keys, from the first, each query sees: int64 [Lq]."""
    at = positions(q.shape[2], k.shape[2], q.device) + 1
    return at if causal else torch.full_like(at, k.shape[2])


Visit = Callable[[int, int, slice, Tensor, Tensor], None]


def _each_chunk(q: Tensor, k: Tensor, *, causal: bool, scale: float, visit: Visit) -> None:
    """Call ``visit(batch, head, rows, scores, seen)`` for chunks of query rows, on all threads.

    ``scores`` [rows, n] are those of the keys that the chunk's last row sees, ``seen`` int64 [rows] says how many of
    them each row sees. The chunks and therefore the bits are the same at every call.
    """
    batch, heads, len_q, _ = q.shape
    accum, all_seen = accumulator(q.dtype), _seen(q, k, causal)
    size = max(1, min(128, _SCORES // max(1, k.shape[2])))

    def chunk(b: int, h: int, key: Tensor, start: int) -> None:
        torch.set_num_threads(1)  # counts per thread; undone for the caller by kernels_own_the_threads
        with torch.no_grad():  # also counts per thread
            rows = slice(start, start + size)
            seen = all_seen[rows]
            visit(b, h, rows, (q[b, h, rows].to(accum) * scale) @ key[: int(seen[-1])].mT, seen)

    with kernels_own_the_threads():
        for b in range(batch):
            for h in range(heads):
                key = k[b, h // (heads // k.shape[1])].to(accum)
                run(chunk, [(b, h, key, start) for start in reversed(range(0, len_q, size))])


def _cut(scores: Tensor, seen: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """``cut`` and ``ties`` of a chunk in plain torch: what ``cut_rows`` does."""
    hidden = torch.arange(scores.shape[1], device=scores.device) >= seen[:, None]
    scores = ranked(scores).masked_fill(hidden, -torch.inf)
    cut = scores.topk(min(top_k, scores.shape[1]), dim=-1).values[:, -1]
    return cut, top_k - (scores > cut[:, None]).sum(-1)


def _mean(scores: Tensor, seen: Tensor, cut: Tensor, ties: Tensor, v: Tensor) -> Tensor:
    """Weighted mean of the chosen values in plain torch: what ``mean_of_chosen`` does."""
    hidden = torch.arange(scores.shape[1], device=scores.device) >= seen[:, None]
    scores = scores.masked_fill(hidden, -torch.inf)
    compared = ranked(scores)
    equal = compared == cut[:, None]
    keep = (compared > cut[:, None]) | (equal & (equal.cumsum(-1) <= ties[:, None]))
    return weighted_sum(scores.masked_fill(~keep, -torch.inf).softmax(-1), v[: scores.shape[1]], keep)


def _compiled(q: Tensor) -> bool:
    return q.device.type == "cpu" and q.dtype != torch.float64


def select(q: Tensor, k: Tensor, *, causal: bool, scale: float | None = None, top_k: int = 1024) -> OracleSelection:
    """Cut every row of scores."""
    _check(top_k)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    cut = q.new_empty(q.shape[:3], dtype=accumulator(q.dtype))
    ties = torch.empty(q.shape[:3], dtype=torch.int64, device=q.device)

    def visit(b: int, h: int, rows: slice, scores: Tensor, seen: Tensor) -> None:
        if _compiled(q):
            cut_rows()(scores.numpy(), seen.numpy(), top_k, cut[b, h, rows].numpy(), ties[b, h, rows].numpy())
        else:
            cut[b, h, rows], ties[b, h, rows] = _cut(scores, seen, top_k)

    _each_chunk(q, k, causal=causal, scale=scale, visit=visit)
    return OracleSelection(q, k, cut, ties, top_k, causal, scale)


def _positions(q: Tensor, k: Tensor, *, causal: bool, scale: float, top_k: int) -> Tensor:
    """The chosen keys of every query as lists: int32 [B, Hq, Lq, min(top_k, Lk)], ascending, -1 at the end."""
    _check(top_k)
    chosen = torch.full((*q.shape[:3], min(top_k, k.shape[2])), -1, dtype=torch.int32, device=q.device)

    def visit(b: int, h: int, rows: slice, scores: Tensor, seen: Tensor) -> None:
        hidden = torch.arange(scores.shape[1], device=scores.device) >= seen[:, None]
        found = top_k_positions(scores.masked_fill(hidden, -torch.inf), top_k)
        chosen[b, h, rows, : found.shape[1]] = found

    _each_chunk(q, k, causal=causal, scale=scale, visit=visit)
    return chosen


def attend(
    q: Tensor, k: Tensor, v: Tensor, selection: OracleSelection, *, causal: bool, scale: float | None = None
) -> Tensor:
    """Softmax attention over the chosen keys."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    group = q.shape[1] // k.shape[1]
    out = q.new_empty(*q.shape[:3], v.shape[3])

    def visit(b: int, h: int, rows: slice, scores: Tensor, seen: Tensor) -> None:
        cut, ties = selection.cut[b, h, rows], selection.ties[b, h, rows]
        value = v[b, h // group]
        if _compiled(q):
            mean = torch.empty(scores.shape[0], v.shape[3])
            value = value.float().contiguous()
            mean_of_chosen()(scores.numpy(), seen.numpy(), cut.numpy(), ties.numpy(), value.numpy(), mean.numpy())
        else:
            mean = _mean(scores, seen, cut, ties, value.to(scores.dtype))
        out[b, h, rows] = mean

    _each_chunk(q, k, causal=causal, scale=scale, visit=visit)
    return out


@opaque(attention_result)
def blocked(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float | None = None, top_k: int = 1024) -> Tensor:
    """Linear memory, quadratic time: every score twice, in chunks of query rows.

    Differentiable in q, k and v through the chosen keys, the choice constant; then 4 bytes x ``top_k`` for every query
    are kept.

    Parameters
    ----------
    q, k, v : Tensor [B, Hq, Lq, D], [B, Hkv, Lk, D], [B, Hkv, Lk, Dv]
    top_k : int, keys
        Kept per query; with as many as it sees, the result is dense attention.

    Raises
    ------
    ValueError
        If ``top_k`` is less than 1.
    """
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        factor = q.shape[-1] ** -0.5 if scale is None else scale
        chosen = _positions(q.detach(), k.detach(), causal=causal, scale=factor, top_k=top_k)
        return token_attention(q, repeat_kv(k, q.shape[1]), repeat_kv(v, q.shape[1]), chosen, factor)
    return attend(q, k, v, select(q, k, causal=causal, scale=scale, top_k=top_k), causal=causal, scale=scale)


def cost(shape: Shape, *, top_k: int = 1024) -> Cost:
    """Every visible score twice, to cut and to weigh, and the chosen values; keys once per chunk of rows, twice."""
    queries = shape.batch * shape.num_heads * shape.len_q
    searched = shape.pairs / max(1, queries)
    attended = min(float(top_k), searched)
    flops = 4.0 * shape.head_dim * shape.pairs + 2.0 * shape.value_dim * attended * queries
    width = shape.head_dim + shape.value_dim
    moved = (width * queries + 2 * shape.head_dim * shape.pairs / 128 + shape.value_dim * attended * queries) * 4.0
    return Cost(flops, moved, searched, attended)


def at_budget(keys: int, shape: Shape) -> dict[str, Any]:
    """As many keys as the budget has: the search, which sees all, is not taken off, for this is an upper bound."""
    return {"top_k": max(1, keys)}


OPERATOR = Unphased(
    reference=reference,
    blocked=blocked,
    cost=cost,
    select=select,
    attend=attend,
    at_budget=at_budget,
    differentiable=True,
    small={"top_k": 32},
)
