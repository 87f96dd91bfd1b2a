"""XAttention: key blocks chosen by the sums of antidiagonals of the scores.

Specification: methods/flux-attention.md, section 3.5, steps 1-4; after mit-han-lab/x-attention, a sparse mode of Flux
attention. Blocks and groups are counted from position 0, also where the queries are the last of the
keys, so that a continued prefill selects what the whole one does. A group that is partly past the end counts with
zeros; the code's masking of padded rows (its slice ``[-0:]`` hides everything before the last chunk) is not needed.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..equations import accumulator

XAttnRule = Literal["official", "strict"]
_ROWS = 256  # groups of queries at a time: at 128k tokens and stride 16 their scores are 8 MB


@torch.no_grad()  # a choice has no gradient
def block_sums(q: Tensor, k: Tensor, *, block_size: int = 128, stride: int = 16, scale: float | None = None) -> Tensor:
    """Steps 1-3. Estimated attention mass of each query block on each key block, causal, without an L x L tensor.

    Parameters
    ----------
    q : Tensor [B, Hq, Lq, D]
        Queries, the last Lq of the Lk positions.
    k : Tensor [B, Hkv, Lk, D]
    block_size, stride : int
        Tokens of a block, and of the groups whose antidiagonal is summed; ``stride`` divides ``block_size``. A larger
        stride is cheaper (2 Lq Lk D / stride operations) and coarser.
    scale : float, optional
        Default ``D ** -0.5``.

    Returns
    -------
    Tensor [B, Hq, nQ, nK], float32 (float64 for float64 inputs). Block i of the queries is block nK - nQ + i of the
    keys; the row sums are the number of its groups.
    """
    if stride < 1 or block_size % stride:
        raise ValueError(f"stride {stride} must divide block_size {block_size}.")
    batch, heads, len_q, dim = q.shape
    len_k, accum = k.shape[2], accumulator(q.dtype)
    offset, groups = len_k - len_q, block_size // stride
    num_k, first = -(-len_k // block_size), offset // block_size
    num_q = num_k - first if len_q else 0
    factor = (dim**-0.5 if scale is None else scale) / stride
    at = torch.arange(first * groups, num_k * groups, device=q.device)  # groups of queries, by position
    real = (at * stride < len_k) & ((at + 1) * stride > offset)  # holds a query
    rows = max(1, _ROWS // groups) * groups
    before, behind = offset - first * block_size, num_k * block_size - len_k
    sums = q.new_zeros(batch, heads, num_q, num_k, dtype=accum)
    for b in range(batch):
        keys = [_grouped(x, 0, behind, stride) for x in k[b].to(accum)]  # [nK * groups, stride * D] each
        for h in range(heads if len_q else 0):
            queries = _grouped(q[b, h].to(accum) * factor, before, behind, stride, reverse=True)
            for start in range(0, queries.shape[0], rows):
                stop = min(start + rows, queries.shape[0])
                seen = first * groups + stop  # groups of keys up to the last of these rows
                scores = queries[start:stop] @ keys[h * k.shape[1] // heads][:seen].mT
                late = torch.arange(first * groups + start, seen, device=q.device)
                scores[:, seen - late.numel() :].masked_fill_(late > late[:, None], -torch.inf)
                weight = scores.sub_(scores.amax(-1, keepdim=True)).exp_()
                weight = weight.view(stop - start, -1, groups).sum(-1)
                weight = weight * (real[start:stop, None] / weight.sum(-1, keepdim=True))  # [rows, seen blocks]
                part = weight.view(-1, groups, weight.shape[1]).sum(1)
                sums[b, h, start // groups : stop // groups, : part.shape[1]] = part
    return sums


def _grouped(x: Tensor, before: int, behind: int, stride: int, *, reverse: bool = False) -> Tensor:
    """Step 1. ``stride`` tokens of x [L, D] side by side, in reverse order for queries: [groups, stride * D]."""
    if before or behind:
        x = F.pad(x, (0, 0, before, behind))
    x = x.reshape(-1, stride, x.shape[-1])
    return (x.flip(1) if reverse else x).flatten(1)


def select_blocks(
    sums: Tensor, *, threshold: float = 0.9, chunk_blocks: int | None = None, rule: XAttnRule = "official"
) -> Tensor:
    """Step 4. The blocks that hold ``threshold`` of a row's mass, besides the row's own block and block 0.

    Parameters
    ----------
    sums : Tensor [..., nQ, nK]
        From ``block_sums``.
    threshold : float in (0, 1]
        Larger keeps more. The block that crosses it is kept.
    chunk_blocks : int, optional
        Rows of blocks 0 .. chunk_blocks-1 are the first chunk, where the official code counts by one block late (its
        sink flag is overwritten); None: all rows.
    rule : {"official", "strict"}
        ``strict``: the rule of the later chunks for all rows.

    Returns
    -------
    Tensor, bool [..., nQ, nK], causal.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is {threshold}; it must be in (0, 1], 0.9 is the method's.")
    if rule not in ("official", "strict"):
        raise ValueError(f"xattn_rule is official or strict, not {rule!r}.")
    num_q, num_k = sums.shape[-2:]
    row = torch.arange(num_k - num_q, num_k, device=sums.device)[:, None]  # [nQ, 1]
    col = torch.arange(num_k, device=sums.device)
    late = row >= (num_k if chunk_blocks is None else chunk_blocks)
    if rule == "strict":
        late = torch.ones_like(late)
    forced = (col == row) | ((col == 0) & late)
    required = threshold * sums.sum(-1, keepdim=True)
    others, order = sums.masked_fill(forced | (col > row), -1.0).sort(dim=-1, descending=True, stable=True)
    running = others.clamp(min=0).cumsum(-1)  # o_1 + .. + o_n
    first = (sums * forced).sum(-1, keepdim=True)
    exact = first + F.pad(running, (1, 0))[..., :-1] < required  # o_n kept by the sum up to o_(n-1) ...
    lagging = first + F.pad(running, (2, 0))[..., :-2] < required  # ... or, in the first chunk, up to o_(n-2)
    rank = col  # n - 1
    kept = torch.where(late, exact, lagging | (rank == 0)) & (others >= 0)
    mask = torch.zeros_like(kept).scatter_(-1, order, kept)
    return mask | forced | (col == 0)


def xattention_mask(
    q: Tensor, k: Tensor, *, block_size: int = 128, stride: int = 16, threshold: float = 0.9, chunk: int = 16384,
    rule: XAttnRule = "official", scale: float | None = None,
) -> Tensor:  # fmt: skip
    """Steps 1-4: which key blocks each query block attends to, bool [B, Hq, nQ, nK]; ``chunk`` in tokens."""
    if chunk < block_size or chunk % block_size:
        raise ValueError(f"chunk {chunk} must be a multiple of block_size {block_size}.")
    sums = block_sums(q, k, block_size=block_size, stride=stride, scale=scale)
    return select_blocks(sums, threshold=threshold, chunk_blocks=chunk // block_size, rule=rule)
