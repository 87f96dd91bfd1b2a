"""HiP: attention over the chosen keys in torch, many query blocks at once. Specification: methods/hip.md, 3.3."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..equations import accumulator, causal_mask, masked_attention, wants_gradient, weighted_sum
from .selection import HipSelection
from .settings import Settings, positive_scale

_GATHER_BYTES = 1 << 25  # keys and values gathered at a time


def attend(
    q: Tensor, k: Tensor, v: Tensor, selection: HipSelection, *, causal: bool, scale: float | None = None,
    settings: Settings,
) -> Tensor:  # fmt: skip
    """Softmax attention over sink, chosen units and window: [B, Hq, Lq, Dv], differentiable in q, k, v."""
    layout, scale = selection.layout, positive_scale(q, scale)
    heads = q.shape[1]
    chunk = selection.starts.shape[3] * layout.settings.span + layout.settings.sink + layout.settings.sliding_window
    per_block = chunk * (q.shape[3] + v.shape[3]) * accumulator(q.dtype).itemsize * q.shape[0] * heads
    chunk = max(1, _GATHER_BYTES // max(1, per_block))
    recompute = wants_gradient(q, k, v)
    pieces = [dense_rows(q, k, v, selection, scale=scale)]
    for begin in range(layout.num_dense, layout.num_blocks, chunk):
        arguments = (q, k, v, selection, begin, min(begin + chunk, layout.num_blocks), scale)
        # a graph of all chunks would keep every gathered key: linear memory, but fifteen times the inputs
        pieces.append(checkpoint(_attend, *arguments, use_reentrant=False) if recompute else _attend(*arguments))
    return torch.cat(pieces, 2)


def dense_rows(q: Tensor, k: Tensor, v: Tensor, selection: HipSelection, *, scale: float) -> Tensor:
    """The leading blocks that see every key up to their own position: [B, Hq, rows, Dv]."""
    layout = selection.layout
    pieces = [q.new_empty(q.shape[0], q.shape[1], 0, v.shape[3])]
    for block in range(layout.num_dense):
        rows, end = q[:, :, block * layout.block_m : (block + 1) * layout.block_m], int(layout.end[block])
        mask = causal_mask(rows.shape[2], end, q.device)
        rows, keys, values = (x.to(accumulator(q.dtype)) for x in (rows, k[:, :, :end], v[:, :, :end]))
        pieces.append(masked_attention(rows, keys, values, mask, scale=scale).to(q.dtype))
    return torch.cat(pieces, 2)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, selection: HipSelection, begin: int, stop: int, scale: float
) -> Tensor:  # fmt: skip
    """Query blocks begin..stop-1: [B, Hq, rows, Dv], computed in float32 or float64."""
    layout, settings, device = selection.layout, selection.layout.settings, q.device
    heads, size, sink, window = q.shape[1], layout.block_m, settings.sink, settings.sliding_window
    first, end = (x[begin:stop].to(device) for x in (layout.first, layout.end))  # [C]
    row = first[:, None] + torch.arange(size, device=device)  # [C, M] positions; past Lk in a short block
    lowest = (end - window).clamp(min=0)[:, None]  # [C, 1]

    units = selection.starts[:, :, begin:stop].to(device).long().repeat_interleave(selection.group, 1)
    chosen = (units[..., None] + torch.arange(settings.span, device=device)).flatten(3)  # [B, Hq, C, width * span]
    counted = torch.arange(units.shape[3], device=device) < selection.count[begin:stop].to(device)[:, None]
    once = counted.repeat_interleave(settings.span, 1) & (chosen >= sink) & (chosen < lowest)
    fixed = torch.cat(
        [
            torch.arange(sink, device=device).expand(len(end), -1),
            torch.arange(-window, 0, device=device) + end[:, None],
        ],
        1,
    )  # [C, S + W]: sink, window
    inside = torch.cat([fixed[:, :sink] < end[:, None], fixed[:, sink:] >= sink], 1)
    key = torch.cat([chosen, fixed.expand(*chosen.shape[:2], -1, -1)], 3)  # [B, Hq, C, T]
    listed = torch.cat([once, inside.expand(*chosen.shape[:2], -1, -1)], 3)
    # a query before the window, which only a window shorter than the block leaves out, sees its own key at least
    own = (key[..., None, :] == row[:, :, None]) & listed[..., None, :] if window < size else None
    visible = listed[..., None, :] & (key[..., None, :] <= row[:, :, None])  # [B, Hq, C, M, T]

    rows = row.clamp(max=layout.len_k - 1) - (layout.len_k - layout.len_q)
    queries = q[:, :, rows].to(accumulator(q.dtype))  # [B, Hq, C, M, D]
    key = key.clamp(0, layout.len_k - 1)
    scores = (queries @ _gather(k, key, heads).mT * scale).masked_fill(~visible, -torch.inf)  # [B, Hq, C, M, T]
    values = _gather(v, key, heads)
    if own is None:
        out = weighted_sum(scores.softmax(-1), values, visible)
    else:
        position = row.clamp(max=layout.len_k - 1).expand(*queries.shape[:3], -1)
        score = (queries * _gather(k, position, heads)).sum(-1, keepdim=True) * scale
        score = score.masked_fill(own.any(-1, keepdim=True), -torch.inf)
        prob = torch.cat([scores, score], -1).softmax(-1)
        out = weighted_sum(prob[..., :-1], values, visible) + prob[..., -1:] * _gather(v, position, heads)
    return out.flatten(2, 3)[:, :, : layout.len_q - begin * size].to(q.dtype)


def _gather(x: Tensor, key: Tensor, heads: int) -> Tensor:
    """Vectors ``key`` [B, Hq, C, T] of ``x`` [B, Hkv, Lk, D], in float32 or float64: [B, Hq, C, T, D]."""
    batch = torch.arange(x.shape[0], device=x.device).view(-1, 1, 1, 1)
    head = (torch.arange(heads, device=x.device) // (heads // x.shape[1])).view(1, -1, 1, 1)
    return x[batch, head, key].to(accumulator(x.dtype))
