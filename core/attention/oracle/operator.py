"""The oracle: every query attends to its ``top_k`` highest-scoring keys, found by computing every score.

The upper bound of what any selection of that many keys can keep, at quadratic time: the search computes half of what
dense attention does. Equal scores at the cut: the smaller position is chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...choose import Formulation, Phase, choose
from ..contract import Cost, Operator, Shape
from ..equations import causal_mask, masked_attention, needs_cpu_floats, repeat_kv, wants_gradient, weighted_sum
from ..tokens.attend import LISTS, token_attention
from ..tokens.top_k import ranked, top_k_positions
from .selection import OracleSelection, each_chunk, mask_of_keys

_FEW = 16  # queries for which a rearranged copy of the keys is not worth its time


@dataclass(frozen=True, slots=True)
class Settings:
    """How many keys are kept.

    Parameters
    ----------
    top_k : int, keys
        Kept per query; with as many as it sees, the result is dense attention.

    Raises
    ------
    ValueError
        If ``top_k`` is less than 1.
    """

    top_k: int = 1024

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise ValueError(f"top_k {self.top_k} must be at least 1.")


def reference(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float | None = None, settings: Settings
) -> Tensor:
    """Softmax attention under the mask of each query's ``top_k`` best visible keys."""
    scores = (q @ repeat_kv(k, q.shape[1]).mT) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if causal:
        scores = scores.masked_fill(~causal_mask(q.shape[2], k.shape[2], q.device), -torch.inf)
    return masked_attention(q, k, v, mask_of_keys(top_k_positions(scores, settings.top_k), k.shape[2]), scale=scale)


def _cut(scores: Tensor, seen: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """``cut`` and ``ties`` of a chunk in plain torch: what ``attend_cpu.cut_rows`` does."""
    hidden = torch.arange(scores.shape[1], device=scores.device) >= seen[:, None]
    scores = ranked(scores).masked_fill(hidden, -torch.inf)
    cut = scores.topk(min(top_k, scores.shape[1]), dim=-1).values[:, -1]
    return cut, top_k - (scores > cut[:, None]).sum(-1)


def _mean(scores: Tensor, seen: Tensor, cut: Tensor, ties: Tensor, v: Tensor) -> Tensor:
    """Weighted mean of the chosen values in plain torch: what ``attend_cpu.mean_of_chosen`` does."""
    hidden = torch.arange(scores.shape[1], device=scores.device) >= seen[:, None]
    scores = scores.masked_fill(hidden, -torch.inf)
    compared = ranked(scores)
    equal = compared == cut[:, None]
    keep = ((compared > cut[:, None]) | (equal & (equal.cumsum(-1) <= ties[:, None]))) & ~hidden
    return weighted_sum(scores.masked_fill(~keep, -torch.inf).softmax(-1), v[: scores.shape[1]], keep)


def select(q: Tensor, k: Tensor, *, causal: bool, scale: float | None = None, settings: Settings) -> OracleSelection:
    """Cut every row of scores."""
    made = OracleSelection.empty(q, k, top_k=settings.top_k, causal=causal, scale=scale)

    def visit(b: int, h: int, rows: slice, scores: Tensor, seen: Tensor) -> None:
        made.cut[b, h, rows], made.ties[b, h, rows] = _cut(scores, seen, settings.top_k)

    each_chunk(q, k, causal=causal, scale=made.scale, visit=visit)
    return made


def attend(
    q: Tensor, k: Tensor, v: Tensor, selection: OracleSelection, *, causal: bool, scale: float | None = None,
    settings: Settings,
) -> Tensor:  # fmt: skip
    """Softmax attention over the chosen keys."""
    group, out = q.shape[1] // k.shape[1], q.new_empty(*q.shape[:3], v.shape[3])

    def visit(b: int, h: int, rows: slice, scores: Tensor, seen: Tensor) -> None:
        cut, ties = selection.cut[b, h, rows], selection.ties[b, h, rows]
        out[b, h, rows] = _mean(scores, seen, cut, ties, v[b, h // group].to(scores.dtype))

    each_chunk(q, k, causal=causal, scale=selection.scale, visit=visit)
    return out


def _refuses_gradients(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> str | None:
    return "has no gradients by itself" if wants_gradient(q, k, v) else None


def _refuses(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> str | None:
    return needs_cpu_floats(q) or _refuses_gradients(q, k, v)


SELECT = Phase(
    "oracle",
    (
        Formulation("cuts, numba", "cpu", "attn.core.attention.oracle.attend_cpu:select", needs_cpu_floats),
        Formulation("cuts, torch", "torch", select),
    ),
)
ATTEND = Phase(
    "oracle",
    (
        Formulation("means, numba", "cpu", "attn.core.attention.oracle.attend_cpu:attend", _refuses),
        Formulation("means, torch", "torch", attend, _refuses_gradients),
    ),
)


def _refuses_in_one(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, **__: Any) -> str | None:
    few = q.shape[2] < _FEW or scale == 0
    return f"takes {_FEW} queries or more, and a scale other than 0" if few else _refuses(q, k, v)


IN_ONE = Formulation(
    "search and attention, numba", "cpu", "attn.core.attention.oracle.attend_cpu:in_one", _refuses_in_one
)
"""Both phases at once: nothing is kept of the selection."""


def _positions(q: Tensor, k: Tensor, *, causal: bool, scale: float, top_k: int) -> Tensor:
    """The chosen keys of every query as lists: int32 [B, Hq, Lq, min(top_k, Lk)], ascending, -1 at the end."""
    chosen = torch.full((*q.shape[:3], min(top_k, k.shape[2])), -1, dtype=torch.int32, device=q.device)

    def visit(b: int, h: int, rows: slice, scores: Tensor, seen: Tensor) -> None:
        hidden = torch.arange(scores.shape[1], device=scores.device) >= seen[:, None]
        best = top_k_positions(scores.masked_fill(hidden, -torch.inf), top_k)
        chosen[b, h, rows, : best.shape[1]] = best

    each_chunk(q, k, causal=causal, scale=scale, visit=visit)
    return chosen


def fused(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float | None = None, settings: Settings, backend: str
) -> Tensor:
    """Linear memory, quadratic time: every score once, by the kernels of the indexers, or twice, in chunks of rows.

    Differentiable in q, k and v through the chosen keys, the choice constant; then 4 bytes x ``top_k`` for every query
    are kept.
    """
    if wants_gradient(q, k, v):
        factor = q.shape[-1] ** -0.5 if scale is None else scale
        chosen = _positions(q.detach(), k.detach(), causal=causal, scale=factor, top_k=settings.top_k)
        engine = choose(LISTS, (q,), backend)
        return token_attention(q, repeat_kv(k, q.shape[1]), repeat_kv(v, q.shape[1]), chosen, factor, engine)
    given: dict[str, Any] = {"causal": causal, "scale": scale, "settings": settings}
    if choose(ATTEND, (q, k, v), backend).backend == "cpu" and IN_ONE.refuses(q, k, v, **given) is None:
        out: Tensor = IN_ONE.function(q, k, v, **given)
    else:
        out = ATTEND(q, k, v, SELECT(q, k, backend=backend, **given), backend=backend, **given)
    return out


def cost(shape: Shape, *, settings: Settings) -> Cost:
    """Every visible score, and the chosen values; keys once per chunk of rows."""
    queries = shape.batch * shape.num_heads * shape.len_q
    searched = shape.pairs / max(1, queries)
    attended = min(float(settings.top_k), searched)
    flops = 2.0 * shape.head_dim * shape.pairs + 2.0 * shape.value_dim * attended * queries
    width = shape.head_dim + shape.value_dim
    moved = (width * queries + shape.head_dim * shape.pairs / 128 + shape.value_dim * attended * queries) * 4.0
    return Cost(flops, moved, searched, attended)


def at_budget(keys: int, shape: Shape) -> dict[str, Any]:
    """As many keys as the budget has: the search, which sees all, is not taken off, for this is an upper bound."""
    return {"top_k": max(1, keys)}


OPERATOR = Operator(
    settings=Settings,
    reference=reference,
    phases=(SELECT, ATTEND),
    fused=fused,
    cost=cost,
    at_budget=at_budget,
    differentiable=True,
    small={"top_k": 32},
)
