"""Attention over chosen tokens: softmax over each query's own list of keys.

Specification: methods/hisa.md, section 3.4. The query heads that share a key/value head share its list.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...choose import Formulation, Phase, choose
from ...first_order import first_order_only
from ..equations import accumulator, needs_cpu_floats, weighted_sum

_CHUNK = 1 << 22  # gathered key entries held at a time


@dataclass(frozen=True)
class TokenSelection:
    """A ``Selection`` by lists: ``indices`` int32 [B, Hkv, Lq, K], ascending, -1 at the end of short ones."""

    indices: Tensor
    num_heads: int
    len_k: int
    searched: int

    @property
    def useful(self) -> int:
        """Distinct pairs attended to, over batch, query heads and queries."""
        if not self.indices.numel():
            return 0
        return int((self.indices >= 0).sum()) * (self.num_heads // self.indices.shape[1])

    @property
    def executed(self) -> int:
        """Pairs whose score is computed: there is no padding."""
        return self.useful

    def mask(self, rows: Tensor) -> Tensor:
        """bool [B, Hq, R, Lk]: what the queries ``rows`` (int64 [R]) attend to."""
        index = self.indices[:, :, rows].long()  # [B, Hkv, R, K]
        mask = torch.zeros(*index.shape[:3], self.len_k + 1, dtype=torch.bool, device=index.device)
        mask.scatter_(3, index.masked_fill(index < 0, self.len_k), True)  # no entry: a column that is cut off
        return mask[..., : self.len_k].repeat_interleave(self.num_heads // index.shape[1], dim=1)


def sparse_topk_attention(
    q: Tensor, k: Tensor, v: Tensor, index: Tensor, scale: float | None = None, engine: Formulation | None = None
) -> Tensor:
    """Attend to the tokens listed for each query.

    Parameters
    ----------
    q, k, v : Tensor [B, Hq, Lq, D], [B, Hkv, Lk, D], [B, Hkv, Lk, Dv]
        One dtype of float32, bfloat16, float16, float64; Hkv divides Hq.
    index : Tensor int32 [B, Hkv, Lq, K]
        Distinct positions in ``k``; negative entries are none.
    scale : float, optional
        Default ``D ** -0.5``.
    engine : Formulation of ``LISTS``, optional
        None: the first that takes the tensors.

    Returns
    -------
    Tensor [B, Hq, Lq, Dv], dtype of ``q``. A query without entries gets zeros. Differentiable (once) in q, k and v.

    Raises
    ------
    ValueError
        If the shapes do not fit or an index points behind the last key.

    References
    ----------
    methods/hisa.md, section 3.4.
    """
    if index.shape != (*k.shape[:2], q.shape[2], index.shape[-1]):
        raise ValueError(
            f"index needs one list per key/value head and query: [B, Hkv, Lq, K]. Shapes q {list(q.shape)}, "
            f"k {list(k.shape)}, index {list(index.shape)}."
        )
    if index.numel() and int(index.max()) >= k.shape[2]:
        raise ValueError(f"index points to token {int(index.max())}, but there are {k.shape[2]} keys.")
    unsigned = index.masked_fill(index < 0, torch.iinfo(index.dtype).max)
    if index.shape[-1] and bool((unsigned[..., 1:] < unsigned[..., :-1]).any()):
        unsigned = unsigned.sort(-1).values
    index = unsigned.masked_fill(unsigned == torch.iinfo(index.dtype).max, -1).to(torch.int32)
    return token_attention(q, k, v, index, scale, engine)


def token_attention(
    q: Tensor, k: Tensor, v: Tensor, index: Tensor, scale: float | None, engine: Formulation | None = None
) -> Tensor:
    """``sparse_topk_attention`` for lists known to be right: int32, ascending, -1 at the end."""
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    engine = engine or choose(LISTS, (q, k, v, index))
    out: Tensor = _SparseTokens.apply(q, k, v, index, factor, engine)  # type: ignore[no-untyped-call]
    return out


class _SparseTokens(torch.autograd.Function):
    """Scores are computed again for the gradients, so that nothing larger than the inputs is kept."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, index: Tensor, scale: float, engine: Formulation) -> Tensor:
        ctx.save_for_backward(q, k, v, index)
        ctx.scale = scale
        out: Tensor = engine.function(q, k, v, index, scale)
        return out

    @staticmethod
    @first_order_only
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, index = ctx.saved_tensors
        dtype = accumulator(q.dtype)
        grad_q = torch.zeros_like(q)
        grad_k, grad_v = torch.zeros_like(k, dtype=dtype), torch.zeros_like(v, dtype=dtype)
        for b, h, heads, rows in _pieces(q, k, index):
            token, prob, keys = _weights(q, k, index, ctx.scale, b, h, heads, rows)
            grad = grads[0][b, heads, rows].to(dtype).transpose(0, 1)  # [m, g, Dv]
            grad_prob = grad @ v[b, h][token].to(dtype).mT  # [m, g, K]
            grad_scores = prob * (grad_prob - (prob * grad_prob).sum(-1, keepdim=True)) * ctx.scale
            grad_q[b, heads, rows] = (grad_scores @ keys).transpose(0, 1).to(q.dtype)
            queries = q[b, heads, rows].to(dtype).transpose(0, 1)  # [m, g, D]
            grad_k[b, h].index_add_(0, token.flatten(), (grad_scores.mT @ queries).flatten(0, 1))
            grad_v[b, h].index_add_(0, token.flatten(), (prob.mT @ grad).flatten(0, 1))
        return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype), None, None, None


def attend_rows(q: Tensor, k: Tensor, v: Tensor, index: Tensor, scale: float) -> Tensor:
    """``token_attention`` without gradients, in torch."""
    out = q.new_zeros(*q.shape[:3], v.shape[-1])
    for b, h, heads, rows in _pieces(q, k, index):
        token, prob, _ = _weights(q, k, index, scale, b, h, heads, rows)
        listed = index[b, h, rows, None] >= 0
        part = weighted_sum(prob, v[b, h][token].to(prob.dtype), listed)
        out[b, heads, rows] = part.transpose(0, 1).to(q.dtype)
    return out


def _pieces(q: Tensor, k: Tensor, index: Tensor) -> Iterator[tuple[int, int, slice, slice]]:
    """(batch entry, key/value head, its query heads, rows) such that the rows' gathered keys fit."""
    group, num_rows = q.shape[1] // k.shape[1], q.shape[2]
    step = max(1, _CHUNK // max(1, index.shape[-1] * k.shape[-1]))
    for b in range(q.shape[0]):
        for h in range(k.shape[1]):
            for start in range(0, num_rows, step):
                yield b, h, slice(h * group, (h + 1) * group), slice(start, min(start + step, num_rows))


def _weights(
    q: Tensor, k: Tensor, index: Tensor, scale: float, b: int, h: int, heads: slice, rows: slice
) -> tuple[Tensor, Tensor, Tensor]:
    """Of a piece: tokens int64 [m, K] (0 for none), weights [m, g, K] (0 for none), gathered keys [m, K, D]."""
    dtype = accumulator(q.dtype)
    chosen = index[b, h, rows].long()  # [m, K]
    token, none = chosen.clamp_min(0), (chosen < 0)[:, None]
    keys = k[b, h][token].to(dtype)  # [m, K, D]
    scores = (q[b, heads, rows].to(dtype).transpose(0, 1) @ keys.mT) * scale  # [m, g, K]
    scores = scores.masked_fill(none, -torch.inf).masked_fill(none.all(-1, keepdim=True), 0.0)
    return token, scores.softmax(-1).masked_fill(none, 0.0), keys


LISTS = Phase(
    "attention over token lists",
    (
        Formulation("over lists, numba", "cpu", "attn.core.attention.tokens.attend_cpu:attend_rows", needs_cpu_floats),
        Formulation("over lists, torch", "torch", attend_rows),
    ),
)
"""``attend_rows(q, k, v, index, scale) -> out``: what operators over token lists run on."""
