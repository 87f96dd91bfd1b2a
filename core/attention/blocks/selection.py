"""Block-sparse softmax attention: which key blocks each query block keeps, and attention over their tokens.

The engine under dense, window+sink, blocktopk, flux and rectified. Online softmax over key tiles as in
arXiv 2205.14135; its backward pass recomputes the probabilities from the log-sum-exp.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ...choose import Formulation, Phase, choose
from ...opaque import own_dtypes
from ..equations import wants_gradient
from . import runs_triton, sdpa_cpu
from .forward_cpu import refuses
from .softmax_cpu import runs


@dataclass(frozen=True)
class BlockSelection:
    """Kept key blocks per batch, head and query block, as lists one behind the other (CSR).

    Parameters
    ----------
    indptr : Tensor int64 [B * Hq * num_q_blocks + 1]
        List i is ``indices[indptr[i] : indptr[i + 1]]``; i counts query blocks fastest, then heads, then batch.
    indices : Tensor int32 [indptr[-1]]
        Key blocks, ascending and distinct within a list, none of which causality empties.
    block_m, block_n : int
        Queries and keys of a block; query blocks start at row 0 of q, key blocks at key 0.
    batch, num_heads, len_q, len_k, causal
        Of the call. The queries are the last ``len_q`` of ``len_k`` positions.
    searched : int
        Scores that were computed to choose.
    """

    indptr: Tensor
    indices: Tensor
    block_m: int
    block_n: int
    batch: int
    num_heads: int
    len_q: int
    len_k: int
    causal: bool
    searched: int = 0
    window: ClassVar[int | None] = None  # inside a kept block a query sees as far back as it goes
    num_sinks: ClassVar[int] = 0
    tile_keys: ClassVar[int | None] = None

    @classmethod
    def from_mask(
        cls, mask: Tensor, *, block_m: int, block_n: int, len_q: int, len_k: int, causal: bool, searched: int = 0
    ) -> BlockSelection:
        """From ``mask``, bool [B, Hq, num_q_blocks, num_k_blocks]; blocks that causality empties are dropped.

        Raises
        ------
        ValueError
            If the number of blocks does not fit the lengths.
        """
        num_q, num_k = -(-len_q // block_m), -(-len_k // block_n)
        if mask.ndim != 4 or mask.shape[2:] != (num_q, num_k):
            raise ValueError(
                f"mask {list(mask.shape)} does not fit {len_q} queries in blocks of {block_m} and {len_k} keys in "
                f"blocks of {block_n}: it needs [batch, heads, {num_q}, {num_k}]."
            )
        if causal:
            mask = mask & visible_blocks(block_m, block_n, len_q, len_k, device=mask.device)
        lists = mask.reshape(-1, num_k)
        indptr = torch.zeros(lists.shape[0] + 1, dtype=torch.int64, device=mask.device)
        torch.cumsum(lists.sum(-1), 0, out=indptr[1:])
        indices = lists.nonzero()[:, 1].to(torch.int32)
        return cls(indptr, indices, block_m, block_n, mask.shape[0], mask.shape[1], len_q, len_k, causal, searched)

    @property
    def num_q_blocks(self) -> int:
        """Query blocks of a head."""
        return -(-self.len_q // self.block_m)

    @cached_property
    def _lists(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        return self.indptr.cpu().numpy(), self.indices.cpu().numpy()

    def spans(self, head: int, block: int) -> np.ndarray[Any, Any]:
        """Runs of keys that query block ``block`` of ``head`` (batch * num_heads + head) keeps: int64 [n, 2]."""
        indptr, indices = self._lists
        row = head * self.num_q_blocks + block
        kept = indices[indptr[row] : indptr[row + 1]]
        spans, count = np.empty((len(kept), 2), dtype=np.int64), np.empty(1, dtype=np.int64)
        runs()(kept, self.block_n, self.len_k, spans, count)
        return spans[: count[0]]

    def lists(self) -> tuple[Tensor, Tensor]:
        """The kept blocks as key ranges, on their device; see ``Pattern``."""
        start = self.indices * self.block_n
        return self.indptr, torch.stack((start, (start + self.block_n).clamp(max=self.len_k)), 1)

    @cached_property
    def _extents(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of each kept block: its queries, its keys, and the position of its first query behind its first key."""
        block = torch.arange(self.indptr.numel() - 1, device=self.indptr.device) % max(1, self.num_q_blocks)
        block = block.repeat_interleave(self.indptr.diff())  # [nnz]
        start_q, start_k = block * self.block_m, self.indices.long() * self.block_n
        rows = (self.len_q - start_q).clamp(max=self.block_m)
        keys = (self.len_k - start_k).clamp(max=self.block_n)
        return rows, keys, start_q + (self.len_k - self.len_q) - start_k

    @property
    def executed(self) -> int:
        """Query-key pairs whose score is computed."""
        rows, keys, ahead = self._extents
        if self.causal:
            keys = torch.minimum(keys, ahead + rows)  # the engine stops at the last key that any query of it sees
        return int((rows * keys).sum())

    @property
    def useful(self) -> int:
        """Query-key pairs attended to."""
        if not self.causal:
            return self.executed
        rows, keys, ahead = self._extents

        def pairs(count: Tensor) -> Tensor:  # pairs of the queries that see up to ``count`` keys of the block
            inside = torch.minimum(count, keys).clamp(min=0)
            return inside * (inside + 1) // 2 + (count - keys).clamp(min=0) * keys

        return int((pairs(ahead + rows) - pairs(ahead)).sum())

    def mask(self, rows: Tensor) -> Tensor:
        """bool [B, Hq, R, Lk]: the keys that the queries ``rows`` (int64 [R]) attend to, causality applied."""
        heads = self.batch * self.num_heads
        num_k = -(-self.len_k // self.block_n)
        lists = torch.arange(heads, device=rows.device)[:, None] * self.num_q_blocks + rows // self.block_m
        lists = lists.reshape(-1)  # [B * Hq * R]
        count = self.indptr.diff()[lists]
        row = torch.arange(lists.numel(), device=rows.device).repeat_interleave(count)
        within = torch.arange(row.numel(), device=rows.device) - (count.cumsum(0) - count)[row]
        blocks = torch.zeros(lists.numel(), num_k, dtype=torch.bool, device=rows.device)
        blocks[row, self.indices[self.indptr[lists][row] + within].long()] = True
        keep = blocks.repeat_interleave(self.block_n, dim=1)[:, : self.len_k]
        keep = keep.reshape(self.batch, self.num_heads, rows.numel(), self.len_k)
        if self.causal:
            keep &= torch.arange(self.len_k, device=rows.device) <= (rows + self.len_k - self.len_q)[:, None]
        return keep


def visible_blocks(block_m: int, block_n: int, len_q: int, len_k: int, *, device: torch.device | None = None) -> Tensor:
    """Blocks in which at least one query sees at least one key under causality: bool [num_q_blocks, num_k_blocks]."""
    last = torch.arange(block_m - 1, len_q + block_m - 1, block_m, device=device).clamp(max=len_q - 1)
    return torch.arange(0, len_k, block_n, device=device) <= (last + len_k - len_q)[:, None]


ENGINE = Phase(
    "attention over blocks",
    (
        Formulation(
            "block by block, Triton", "triton", "attn.core.attention.blocks.runs_triton:forward", runs_triton.refuses
        ),
        Formulation(
            "blocks of PyTorch's attention", "cpu", "attn.core.attention.blocks.sdpa_cpu:forward", sdpa_cpu.refuses
        ),
        Formulation("block by block, numba", "cpu", "attn.core.attention.blocks.forward_cpu:forward", refuses),
        Formulation("block by block, torch", "torch", "attn.core.attention.blocks.forward:forward"),
    ),
)
"""``forward(q, k, v, pattern, scale) -> out, lse``: what all operators over blocks run on, and a new kernel's place."""
BACKWARD = Phase(
    "the gradient of attention over blocks",
    (
        Formulation(
            "block by block, Triton",
            "triton",
            "attn.core.attention.blocks.runs_triton:backward",
            runs_triton.refuses_backward,
        ),
        Formulation("block by block, torch", "torch", "attn.core.attention.blocks.backward:backward"),
    ),
)
"""``backward(q, k, v, out, lse, grad_out, grad_lse, pattern, scale) -> grad_q, grad_k, grad_v``."""


class _Attend(torch.autograd.Function):
    """Forward keeps out and lse; backward recomputes the probabilities tile by tile."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, selection: Any, scale: float, engine: Formulation
    ) -> tuple[Tensor, Tensor]:
        out, lse = engine.function(q, k, v, selection, scale)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.selection, ctx.scale = selection, scale
        return out, lse

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor, grad_lse: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        q, k, v, out, lse = ctx.saved_tensors
        with own_dtypes(q.device.type):  # .backward() may be called inside autocast
            gradients = BACKWARD(q, k, v, out, lse, grad_out, grad_lse, ctx.selection, ctx.scale)
        return *gradients, None, None, None


def attend(
    q: Tensor, k: Tensor, v: Tensor, selection: Any, scale: float | None, engine: Formulation | None = None
) -> tuple[Tensor, Tensor]:
    """``out`` and ``lse`` over the tokens of any pattern with ``spans``; see ``attend_blocks``."""
    engine = engine or choose(ENGINE, (q, k, v, selection), scale=scale)
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    result: tuple[Tensor, Tensor]
    if wants_gradient(q, k, v):
        result = _Attend.apply(q, k, v, selection, factor, engine)  # type: ignore[no-untyped-call]
    else:
        result = engine.function(q, k, v, selection, factor)
    return result


def attend_blocks(
    q: Tensor, k: Tensor, v: Tensor, selection: BlockSelection, *, scale: float | None = None, return_lse: bool = False,
    engine: Formulation | None = None,
) -> Any:  # fmt: skip
    """Softmax attention of each query over the tokens of the key blocks that its block keeps.

    Parameters
    ----------
    q, k, v : Tensor [B, Hq, Lq, D], [B, Hkv, Lk, D], [B, Hkv, Lk, Dv]
        float32, bfloat16, float16 or float64; differentiable.
    selection : BlockSelection
        Kept blocks. Where it is causal, a query sees keys up to its own position only.
    scale : float, optional
        Factor on q·kᵀ, default ``D ** -0.5``.
    return_lse : bool
        Also return the log-sum-exp of each query's scaled scores.
    engine : Formulation of ``ENGINE``, optional
        None: the first that takes the tensors.

    Returns
    -------
    out : Tensor [B, Hq, Lq, Dv], dtype of ``q``
        Rows that keep no key are zeros. Same inputs, same bits, whatever the number of threads.
    lse : Tensor [B, Hq, Lq], float32 (float64 for float64), only with ``return_lse``
        Natural logarithm; minus infinity for rows that keep no key.

    Raises
    ------
    ValueError
        If ``selection`` was made for other sizes.
    """
    made_for = (selection.batch, selection.num_heads, selection.len_q, selection.len_k)
    sizes = (q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    if made_for != sizes:
        raise ValueError(
            f"selection is for (batch, heads, queries, keys) {made_for}, q and k have {sizes}. Select again for these."
        )
    out, lse = attend(q, k, v, selection, scale, engine)
    return (out, lse) if return_lse else out
