"""Rectified SpaAttn, steps 9-12: attention over the kept blocks, scaled by R, and what pooled values restore."""

from __future__ import annotations

import torch
from torch import Tensor

from ...choose import Formulation
from ..blocks.selection import BlockSelection, attend_blocks
from ..equations import repeat_kv, weighted_sum
from .blocks import block_mean
from .choice import Choice, Rectified


def ordered(x: Tensor, order: Tensor | None) -> Tensor:
    """Video tokens in the order of attention."""
    return x if order is None else x.index_select(2, order)


def correct(choice: Choice, v: Tensor, sparse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Steps 10-12. v [B, Hkv, Tv, Dv], sparse [B, Hq, Tv, Dv], both as ordered -> out, factor, compensation."""
    blocks, size = choice.blocks, choice.block_size
    num = blocks.no_gain.shape[-1]
    restored = blocks.prob * blocks.restored
    factor = 1 - restored.sum(-1)  # the mass of E, for the rows of prob sum to 1
    means = repeat_kv(block_mean(v, size), restored.shape[1])
    compensation = weighted_sum(restored[..., :num], means, blocks.restored[..., :num])  # [B, Hq, nv, Dv]
    parts = []
    whole = sparse.shape[2] // size  # blocks of full size; views, so that nothing is repeated for each token
    for first, last, length in ((0, whole, size), (whole, num, sparse.shape[2] - whole * size)):
        if first < last:
            part = sparse[:, :, first * size : first * size + (last - first) * length]
            part = part.reshape(*part.shape[:2], last - first, length, part.shape[3])
            part = torch.addcmul(compensation[:, :, first:last, None], part, factor[:, :, first:last, None, None])
            parts.append(part.flatten(2, 3).to(sparse.dtype))
    return torch.cat(parts, 2) if len(parts) > 1 else parts[0], factor, compensation


def finish(
    q: Tensor, k: Tensor, v: Tensor, choice: Choice, scale: float | None, engine: Formulation | None = None
) -> Rectified:
    """Steps 9-12 and text queries, tokens back where they were. ``engine`` as in ``attend_blocks``."""
    video, valid = choice.len_video, choice.len_video + choice.valid_text
    k, v = k[:, :, :valid], v[:, :, :valid]
    order, rank = choice.order, None
    q_video, keys, values = q[:, :, :video], k, v
    if order is not None:
        rank = order.argsort()
        whole = torch.cat([order, torch.arange(video, valid, device=order.device)])
        q_video, keys, values = ordered(q_video, order), ordered(k, whole), ordered(v, whole)
    sparse = attend_blocks(q_video, keys, values, choice.lists, scale=scale, engine=engine)
    out, factor, compensation = correct(choice, values[:, :, :video], sparse)
    out, sparse = ordered(out, rank), ordered(sparse, rank)
    if choice.len_text:
        size, queries = choice.block_size, q[:, :, video:]
        everything = torch.ones(
            q.shape[0],
            q.shape[1],
            -(-choice.len_text // size),
            -(-valid // size),
            dtype=torch.bool,
            device=q.device,
        )
        dense = BlockSelection.from_mask(
            everything, block_m=size, block_n=size, len_q=choice.len_text, len_k=valid, causal=False
        )
        text = attend_blocks(queries, k, v, dense, scale=scale, engine=engine)
        out, sparse = torch.cat([out, text], 2), torch.cat([sparse, text], 2)
    return Rectified(out, sparse, choice.blocks, factor, compensation)
