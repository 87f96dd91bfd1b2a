"""Block top-k: each query block attends to the key blocks whose mean key scores highest against its mean query.

The selection step that arXiv 2502.13189 (MoBA) and arXiv 2502.11089 (NSA) share, without training, gates or branches.
A query block always keeps the first key block and those that hold its own positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..choose import Formulation, in_torch
from .blocks.selection import ENGINE, BlockSelection, attend_blocks, visible_blocks
from .contract import Cost, Operator, Shape
from .equations import accumulator, causal_mask, masked_attention, repeat_kv


@dataclass(frozen=True, slots=True)
class Settings:
    """How blocks are chosen.

    Parameters
    ----------
    block_size : int, tokens
        Of query and key blocks.
    top_k : int, blocks
        Kept per query block, the first block and its own among them (which are kept in any case).

    Raises
    ------
    ValueError
        If a size is not positive.
    """

    block_size: int = 64
    top_k: int = 32

    def __post_init__(self) -> None:
        if self.block_size < 1 or self.top_k < 1:
            raise ValueError(f"block_size {self.block_size} and top_k {self.top_k} must be at least 1.")


def pool(x: Tensor, block_size: int) -> Tensor:
    """Means of blocks of rows, the last over the rows it has: [B, H, L, D] -> [B, H, L/block, D], at least float32."""
    batch, heads, length, dim = x.shape
    whole, accum = length // block_size, accumulator(x.dtype)
    body, rest = x[:, :, : whole * block_size], x[:, :, whole * block_size :]
    means = body.reshape(batch, heads, whole, block_size, dim).mean(3, dtype=accum)
    return torch.cat((means, rest.mean(2, keepdim=True, dtype=accum)), dim=2) if rest.shape[2] else means


def own_blocks(block_size: int, len_q: int, len_k: int, device: torch.device) -> Tensor:
    """Key blocks that hold positions of a query block, and the first: bool [num_q_blocks, num_k_blocks]."""
    start = torch.arange(0, len_q, block_size, device=device)
    first, last = start + len_k - len_q, (start + block_size).clamp(max=len_q) + len_k - len_q - 1
    block = torch.arange(-(-len_k // block_size), device=device)
    own = (block >= first[:, None] // block_size) & (block <= last[:, None] // block_size)
    return own | (block == 0)


def choose_blocks(q: Tensor, k: Tensor, *, causal: bool, settings: Settings) -> Tensor:
    """Kept key blocks, bool [B, Hq, num_q_blocks, num_k_blocks]: the ``top_k`` best, own and first among them."""
    size, len_q, len_k = settings.block_size, q.shape[2], k.shape[2]
    scores = pool(q, size) @ repeat_kv(pool(k, size), q.shape[1]).mT  # [B, Hq, nQ, nK]
    seen = torch.ones(scores.shape[2:], dtype=torch.bool, device=q.device)
    if causal:
        seen = visible_blocks(size, size, len_q, len_k, device=q.device)
    own = own_blocks(size, len_q, len_k, q.device)
    scores = scores.masked_fill_(~seen, -torch.inf).masked_fill_(own, torch.inf)
    best = scores.topk(min(settings.top_k, scores.shape[3]), dim=-1).indices
    kept = torch.zeros_like(scores, dtype=torch.bool).scatter_(3, best, True)
    return (kept | own) & seen


def reference(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float | None = None, settings: Settings
) -> Tensor:
    """Softmax attention under the mask of the chosen blocks."""
    kept = choose_blocks(q, k, causal=causal, settings=settings)
    mask = kept.repeat_interleave(settings.block_size, 2)[:, :, : q.shape[2]]
    mask = mask.repeat_interleave(settings.block_size, 3)[..., : k.shape[2]]
    return masked_attention(
        q, k, v, mask & causal_mask(q.shape[2], k.shape[2], q.device) if causal else mask, scale=scale
    )


def select(q: Tensor, k: Tensor, *, causal: bool, scale: float | None = None, settings: Settings) -> BlockSelection:
    """The blocks of every query block, from (Lq / block_size) x (Lk / block_size) pooled scores; without a gradient."""
    kept, size = choose_blocks(q, k, causal=causal, settings=settings), settings.block_size
    return BlockSelection.from_mask(
        kept, block_m=size, block_n=size, len_q=q.shape[2], len_k=k.shape[2], causal=causal, searched=kept.numel()
    )


def attend(
    q: Tensor, k: Tensor, v: Tensor, selection: BlockSelection, *, causal: bool, scale: float | None = None,
    settings: Settings, engine: Formulation, return_lse: bool = False,
) -> Any:  # fmt: skip
    """Softmax attention over the selection; differentiable."""
    return attend_blocks(q, k, v, selection, scale=scale, return_lse=return_lse, engine=engine)


def cost(shape: Shape, *, settings: Settings) -> Cost:
    """The pooled scores (all of them, causal or not), then the kept blocks; each kept block is gathered again."""
    size = settings.block_size
    queries = shape.batch * shape.num_heads * shape.len_q
    num_q, num_k = -(-shape.len_q // size), -(-shape.len_k // size)
    pooled = shape.batch * shape.num_heads * num_q * num_k
    dense = shape.pairs / max(1, queries)
    attended = min(float(settings.top_k * size), dense)
    width = shape.head_dim + shape.value_dim
    flops = 2.0 * width * attended * queries + 2.0 * shape.head_dim * pooled
    keys = shape.batch * shape.num_kv_heads * shape.len_k
    moved = (width * (queries + queries / size * attended) + shape.head_dim * (queries + keys)) * shape.itemsize
    return Cost(flops, moved, pooled / max(1, queries), attended)


def at_budget(keys: int, shape: Shape) -> dict[str, Any]:
    """Blocks of 64; what the pooled search visits per query is taken off."""
    searched = -(-shape.len_k // 64) / 64
    return {"block_size": 64, "top_k": max(1, round((keys - searched) / 64))}


OPERATOR = Operator(
    settings=Settings,
    reference=reference,
    phases=(in_torch("blocktopk", select), ENGINE.used_by("blocktopk", attend)),
    cost=cost,
    at_budget=at_budget,
    differentiable=True,
    returns_lse=True,
    small={"block_size": 16, "top_k": 4},
)
