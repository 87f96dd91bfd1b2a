"""Token attention inside the chosen regions on a GPU: steps 3.7-3.9 of methods/biformer.md, gather-free (section 7).

In the order of the regions a region is a block of queries, and each region that it chose is a run of keys: so this is
``attn.kernels.blocks``, forward and backward, and no chosen region is copied.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..blocks import runs_triton
from ..blocks.selection import ENGINE, BlockSelection
from ..blocks.selection import attend as attend_blocks
from .regions import Regions, Routing, from_regions, to_regions

_ENGINE = next(formulation for formulation in ENGINE.formulations if formulation.backend == "triton")


def refuses(
    q: Tensor, k: Tensor, v: Tensor, selection: Routing | None = None, *, soft_routing: bool = False,
    settings: Any = None, **_: object,
) -> str | None:  # fmt: skip
    """Why the kernels do not take a call of attention inside regions, or of the operator with its ``settings``."""
    if soft_routing or (settings is not None and settings.soft_routing):
        return "takes chosen regions as they are, not weighted by soft_routing"
    if selection is not None and selection.masked:
        return "takes maps without hidden padding"
    return runs_triton.refuses(q, k, v)


def attend_regions(
    q: Tensor, k: Tensor, v: Tensor, selection: Routing, *, scale: float, soft_routing: bool = False
) -> Tensor:
    """As ``attend.attend_regions``: [B, Hq, L, Dv], differentiable in q, k and v."""
    regions, batch, heads = selection.regions, q.shape[0], q.shape[1]
    q, k, v = (_in_order(x, regions) for x in (q, k, v))  # [B, H, P * T, .]
    out, _ = attend_blocks(q, k, v, _kept(selection, heads), scale, _ENGINE)
    return from_regions(out.transpose(0, 1).reshape(heads, batch * regions.total, regions.size, -1), regions, batch)


def _in_order(x: Tensor, regions: Regions) -> Tensor:
    """[B, H, L, D] with the tokens of a region one behind the other, padding among them: [B, H, P * T, D]."""
    return to_regions(x, regions).reshape(x.shape[1], x.shape[0], -1, x.shape[3]).transpose(0, 1)


def _kept(selection: Routing, heads: int) -> BlockSelection:
    """The chosen regions as key blocks; every head has the same."""
    regions, topk = selection.regions, selection.index.shape[2]
    lists = selection.index.sort(-1).values.to(torch.int32)  # [B, P, topk], ascending
    batch, length = len(lists), regions.total * regions.size
    indices = lists[:, None].expand(-1, heads, -1, -1).reshape(-1)
    indptr = torch.arange(batch * heads * regions.total + 1, device=indices.device) * topk
    return BlockSelection(indptr, indices, regions.size, regions.size, batch, heads, length, length, causal=False)
