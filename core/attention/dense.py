"""Dense softmax attention, exact: the block engine over all key blocks, or PyTorch's own where that is faster.

Papers: arXiv 1706.03762 (the equation), arXiv 2205.14135 (block by block with an online softmax).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..choose import Formulation, Phase
from .blocks.sdpa_cpu import forward_whole, positive_scale, refuses_whole, same_width
from .blocks.selection import ENGINE
from .blocks.selection import attend as attend_pattern
from .blocks.tiles import Spans
from .contract import Cost, Operator, Shape
from .equations import causal_mask, masked_attention, positions
from .products import sdpa_leads, whole

_DECODE_KEYS = 8192  # of a tile of a decode step: a row of scores is short, a step is not
_MASK_ENTRIES = 1 << 22  # of a chunk of rows, where SDPA needs an explicit mask: 4 MiB of bool


@dataclass(frozen=True, slots=True)
class Settings:
    """The tiles, which have no influence on the result.

    Parameters
    ----------
    block_m, block_n : int
        Queries and keys of a tile: larger ones spare steps, until scores of 2 MiB leave the second-level cache.

    Raises
    ------
    ValueError
        If a block size is not positive.
    """

    block_m: int = 512
    block_n: int = 1024

    def __post_init__(self) -> None:
        if self.block_m < 1 or self.block_n < 1:
            raise ValueError(f"block_m {self.block_m} and block_n {self.block_n} must be at least 1.")


def reference(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float | None = None, settings: Settings
) -> Tensor:
    """softmax(scale q kᵀ) v over all visible keys."""
    mask = causal_mask(q.shape[2], k.shape[2], q.device) if causal else None
    return masked_attention(q, k, v, mask, scale=scale)


@dataclass(frozen=True)
class Everything:
    """The pattern that keeps every key, without lists."""

    block_m: int
    tile_keys: int
    len_q: int
    len_k: int
    causal: bool
    window: ClassVar[int | None] = None
    num_sinks: ClassVar[int] = 0

    def spans(self, head: int, block: int) -> Spans:
        """One run of all keys."""
        return np.array([[0, self.len_k]], dtype=np.int64)

    def lists(self) -> None:
        """A rule, without lists."""


def attend(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float | None = None, settings: Settings,
    engine: Formulation, return_lse: bool = False,
) -> Any:  # fmt: skip
    """The same in linear memory; differentiable. With ``return_lse`` also the log-sum-exp."""
    block_m, block_n = settings.block_m, settings.block_n
    batch, heads, len_q, _ = q.shape
    if len_q == 1:
        q, causal, block_n = fold_group(q, k), False, max(block_n, _DECODE_KEYS)
    # about 16 query blocks in all, so that they spread over the threads, unless they would be too small to be worth the
    # steps around them; by sizes alone, so that the bits stay
    block_m = min(block_m, max(256, whole(-(-batch * q.shape[1] * q.shape[2] // 16))))
    pattern = Everything(block_m, block_n, q.shape[2], k.shape[2], causal)
    out, lse = attend_pattern(q, k, v, pattern, scale, engine)
    out = out.reshape(batch, heads, len_q, v.shape[3])
    return (out, lse.reshape(batch, heads, len_q)) if return_lse else out


def cost(shape: Shape, *, settings: Settings) -> Cost:
    """2 (D + Dv) operations per visible pair; every tensor moved once: tiles are read again from the cache."""
    queries = shape.batch * shape.num_heads * shape.len_q
    flops = 2.0 * (shape.head_dim + shape.value_dim) * shape.pairs
    return Cost(flops, compulsory_bytes(shape), 0.0, shape.pairs / max(1, queries))


def compulsory_bytes(shape: Shape) -> float:
    """q, k and v read once, out written once."""
    width = shape.head_dim + shape.value_dim
    queries, keys = shape.num_heads * shape.len_q, shape.num_kv_heads * shape.len_k
    return float(shape.batch * width * (queries + keys) * shape.itemsize)


def fold_group(q: Tensor, k: Tensor) -> Tensor:
    """Decode: the query heads of a group as the rows of their key head, [B, Hq, 1, D] -> [B, Hkv, group, D].

    The last query sees all keys, so the rows need no mask, and the keys are read once for all of them.
    """
    return q.reshape(q.shape[0], k.shape[1], q.shape[1] // k.shape[1], q.shape[3])


def first_and_latest(k: Tensor, v: Tensor, first: int, start: int) -> tuple[Tensor, Tensor]:
    """Decode: the ``first`` keys and values and those from ``start`` on side by side, all of which the query sees."""
    if first < start:
        k, v = (torch.cat([x[:, :, :first], x[:, :, start:]], dim=2) for x in (k, v))
    return k, v


def sdpa(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float | None = None) -> Tensor:
    """PyTorch's scaled_dot_product_attention on the same terms: grouped heads, the queries the last of the keys.

    Where Lq < Lk it has no causal form for that, and gets a mask for some rows at a time.
    """
    product = torch.nn.functional.scaled_dot_product_attention
    batch, heads, len_q, dim = q.shape
    len_k, value_dim = k.shape[2], v.shape[3]
    q, scale = positive_scale(q, dim**-0.5 if scale is None else scale)
    q, k, v = same_width(q, k, v)  # without its flash kernel it would make the Lq x Lk scores
    gqa = heads != k.shape[1]
    if len_q == 1:
        out = product(fold_group(q, k), k, v, scale=scale)
    elif not causal or len_q == len_k:
        out = product(q, k, v, is_causal=causal, scale=scale, enable_gqa=gqa)
    else:
        at, keys = positions(len_q, len_k, q.device), torch.arange(len_k, device=q.device)
        rows = max(1, _MASK_ENTRIES // max(1, len_k))
        chunks = [
            product(part, k, v, attn_mask=keys <= where[:, None], scale=scale, enable_gqa=gqa)
            for part, where in zip(torch.split(q, rows, dim=2), torch.split(at, rows), strict=True)
        ]
        out = torch.cat(chunks, dim=2)
    return out.reshape(batch, heads, len_q, q.shape[3])[..., :value_dim]


def refuses_sdpa(q: Tensor, k: Tensor, *_: Any, **__: Any) -> str | None:
    """Why ``dense`` does not hand a call over to PyTorch's attention.

    A decode step waits for the keys, whatever multiplies them; where they need no other dtype it is faster there.
    """
    if sdpa_leads(q.dtype, k.shape[2]) or (q.shape[2] == 1 and q.dtype == torch.float32):
        return refuses_whole(q, k)
    return "is for few keys, and for processors whose float32 products are no faster by oneDNN"


_SDPA = Formulation("PyTorch's attention", "cpu", forward_whole, refuses_sdpa)
OPERATOR = Operator(
    settings=Settings,
    reference=reference,
    phases=(Phase("all keys", (_SDPA, *ENGINE.formulations)).used_by("dense", attend),),
    cost=cost,
    differentiable=True,
    returns_lse=True,
    exact=True,
)
