"""Token attention inside the chosen regions, some query regions at a time: steps 3.7-3.9 of methods/biformer.md."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...choose import Formulation, Phase
from ...first_order import first_order_only
from ...opaque import opaque
from ..equations import accumulator, weighted_sum
from . import attend_triton
from .regions import Routing, from_regions, to_regions

CHUNK_BYTES = 8 << 20
"""Most that one chunk's gathered keys and values take (one region's at least): they stay in the third-level cache."""


def attend_regions(
    q: Tensor, k: Tensor, v: Tensor, selection: Routing, *, scale: float, soft_routing: bool = False
) -> Tensor:
    """Steps 3.7-3.9. Chunk by chunk of query regions: gather the chosen regions, one batched attention; [B, Hq, L, Dv].

    Never more than ``CHUNK_BYTES`` of gathered keys and values at a time, with gradients too.
    """
    regions, (batch, heads, _, dim), value_dim = selection.regions, q.shape, v.shape[3]
    group, width = heads // k.shape[1], max(dim, value_dim)
    q, k, v = (F.pad(x, (0, width - x.shape[3])) if x.shape[3] < width else x for x in (q, k, v))
    index, on_map = selection.flat()  # [B * P, topk], [B * P, topk * T] or None
    weight = selection.weight.flatten(0, 1).to(q.dtype) if soft_routing else None
    out = _attend(
        to_regions(q, regions, group), to_regions(k, regions), to_regions(v, regions), index, weight, on_map, scale
    )
    return from_regions(out[..., :value_dim], regions, batch, group)


ATTEND = Phase(
    "attention inside regions",
    (
        Formulation("regions as runs of keys, Triton", "triton", attend_triton.attend_regions, attend_triton.refuses),
        Formulation("gathered regions, torch", "torch", attend_regions),
    ),
)
"""``attend(q, k, v, selection, scale=, soft_routing=) -> out``."""


@opaque(lambda q, **_: q.new_empty(q.shape))
def _attend(
    q: Tensor, k: Tensor, v: Tensor, index: Tensor, weight: Tensor | None, on_map: Tensor | None, scale: float
) -> Tensor:
    """``_Attend``, one node of a graph."""
    out: Tensor = _Attend.apply(q, k, v, index, weight, on_map, scale)  # type: ignore[no-untyped-call]
    return out


def gather(x: Tensor, index: Tensor) -> Tensor:
    """Step 3.7. Regions [H, N, T, D] by index [c, topk]: [H, c, topk * T, D]."""
    heads, _, tokens, dim = x.shape
    return x.index_select(1, index.flatten()).view(heads, index.shape[0], index.shape[1] * tokens, dim)


def _attend_chunk(
    q: Tensor, k: Tensor, v: Tensor, part: slice, weight: Tensor | None, on_map: Tensor | None, scale: float,
    plain: bool = False,
) -> Tensor:  # fmt: skip
    """Steps 3.8-3.9 for the query regions ``part``: q [H, c, M, D] over the gathered k, v [H, c, topk * T, D].

    Of all regions: weight [N, topk] on the slots of k and v, and which tokens to see [N, topk * T]. ``plain``: without
    the library's kernel, which may give a row of NaN scores as zeros.
    """
    if weight is not None:
        factor = weight[part].repeat_interleave(k.shape[2] // weight.shape[1], 1)[:, :, None]  # [c, topk * T, 1]
        k, v = k * factor, v * factor
    mask = None if on_map is None else on_map[None, part, None]  # [1, c, 1, topk * T]
    if plain:
        scores = ((q * scale) @ k.mT).to(accumulator(q.dtype))
        scores = scores if mask is None else scores.masked_fill(~mask, -torch.inf)
        return weighted_sum(scores.softmax(-1).to(v.dtype), v, mask)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)


def _may_overflow(q: Tensor, k: Tensor) -> bool:
    """Whether a product of a query and a key may be infinite or NaN."""
    if not q.numel() or not k.numel():
        return False
    bound = q.abs().amax().double() * k.abs().amax().double() * q.shape[-1]
    return not bool(bound < torch.finfo(accumulator(q.dtype)).max)


class _Attend(torch.autograd.Function):
    """q [H, N, M, D] over regions k, v [H, N, T, D] chosen by index [N, topk]: [H, N, M, D].

    Backward repeats each chunk: torch's own would keep every gathered copy and fill a map of zeros per chunk.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, index: Tensor, weight: Tensor | None, on_map: Tensor | None,
        scale: float,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(q, k, v, index, weight, on_map)
        ctx.scale = scale
        out, plain = torch.empty_like(q), _may_overflow(q, k)
        for part in _chunks(k, index):
            kc, vc = gather(k, index[part]), gather(v, index[part])
            out[:, part] = _attend_chunk(q[:, part], kc, vc, part, weight, on_map, scale, plain)
        return out

    @staticmethod
    @first_order_only
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, index, weight, on_map = ctx.saved_tensors
        q_grad = torch.empty_like(q)
        k_sum, v_sum = (torch.zeros_like(x, dtype=accumulator(x.dtype)) for x in (k, v))
        for part in _chunks(k, index):
            kc, vc = gather(k, index[part]), gather(v, index[part])
            qc, kc, vc = leaves = [x.detach().requires_grad_() for x in (q[:, part], kc, vc)]
            with torch.enable_grad():
                out = _attend_chunk(qc, kc, vc, part, weight, on_map, ctx.scale)
            q_grad[:, part], *gradients = torch.autograd.grad(out, leaves, grad[:, part])
            for total, more in zip((k_sum, v_sum), gradients, strict=True):
                pieces = more.reshape(k.shape[0], -1, *k.shape[2:])  # [H, c * topk, T, D]
                total.index_add_(1, index[part].flatten(), pieces.to(total.dtype))
        return q_grad, k_sum.to(k.dtype), v_sum.to(v.dtype), None, None, None, None


def _chunks(k: Tensor, index: Tensor) -> Iterator[slice]:
    """Cut the query regions into chunks whose gathered keys and values take at most ``CHUNK_BYTES``."""
    heads, _, tokens, dim = k.shape
    step = max(1, CHUNK_BYTES // (2 * index.shape[1] * tokens * heads * dim * k.element_size()))
    for start in range(0, index.shape[0], step):
        yield slice(start, start + step)
