"""HiP: which keys were chosen, as units per query block, and how many. Specification: methods/hip.md, 3.3."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .settings import Layout

ROW_TILE = 16
"""Queries are attended in tiles of so many rows, one vector register; blocks that are no multiple are padded."""
_BLOCKS = 32


def bands(count: int) -> list[tuple[int, int]]:
    """Query blocks in pieces, shared out as threads get free: later ones see more keys and take longer."""
    return [(first, min(first + _BLOCKS, count)) for first in range(0, count, _BLOCKS)]


@dataclass(frozen=True)
class HipSelection:
    """The units that each query block attends to besides the sink and the window.

    Parameters
    ----------
    layout : Layout
    starts : Tensor, int32 [B, H, nB, width]
        First key of each unit, ascending; H is the number of query heads, or of key heads in decode, where the query
        heads of a group share one choice.
    count : Tensor, int64 [nB]
        How many of each block's ``starts`` are meant.
    group : int
        Query heads per entry of ``starts``.
    searched : int
        Scores that the search computed.
    """

    layout: Layout
    starts: Tensor
    count: Tensor
    group: int
    searched: int

    def mask(self, rows: Tensor) -> Tensor:
        """bool [B, Hq, R, Lk]: what the queries ``rows`` (int64 [R]) attend to, causality applied."""
        layout, settings = self.layout, self.layout.settings
        device = self.starts.device
        block = (rows // layout.block_m).cpu()
        end = layout.end[block].to(device)[:, None]  # [R, 1]
        position = rows.to(device)[:, None] + (layout.len_k - layout.len_q)
        key = torch.arange(layout.len_k, device=device)
        always = (key < settings.sink) | (key >= torch.minimum(end - settings.sliding_window, position))
        always |= (block < layout.num_dense).to(device)[:, None]  # [R, Lk]
        starts = self.starts[:, :, block.to(device)].long()  # [B, H, R, width]
        tokens = (starts[..., None] + torch.arange(settings.span, device=device)).flatten(3)
        tokens = tokens.clamp(max=layout.len_k)  # one column more for units that stick out
        counted = torch.arange(starts.shape[3], device=device) < self.count[block].to(device)[:, None]
        counted = counted.repeat_interleave(settings.span, 1)  # [R, width * span]
        chosen = torch.zeros(*starts.shape[:3], layout.len_k + 1, dtype=torch.bool, device=device)
        chosen.scatter_(3, torch.where(counted, tokens, layout.len_k), True)
        visible = (chosen[..., :-1] | always) & (key <= position)
        return visible.repeat_interleave(self.group, 1)

    def _spans(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Per block the first query, the end, the window's first key; per unit the keys outside sink and window."""
        layout, settings = self.layout, self.layout.settings
        first, end = layout.first[:, None], layout.end[:, None]  # [nB, 1]
        window = (end - settings.sliding_window).clamp(min=0)
        start = self.starts.cpu().long()
        stop = torch.minimum(start + settings.span, window)
        stop = torch.where(torch.arange(start.shape[3]) < self.count[:, None], stop, 0)
        start = start.clamp(min=settings.sink)
        return first, end, window, start, torch.maximum(stop, start)

    @property
    def useful(self) -> int:
        """Distinct pairs of query and key attended to, over batch and heads."""
        sink, dense = self.layout.settings.sink, self.layout.num_dense
        first, end, window, start, stop = self._spans()
        rows = end - first

        def before(key: Tensor) -> Tensor:
            """Pairs of the block's queries and the keys before ``key`` that they may see."""
            ahead = (key - first).clamp(min=0)
            return rows * key - ahead * (ahead - 1) // 2

        common = before(end.clamp(max=sink)) + before(end) - before(torch.maximum(window, end.clamp(max=sink)))
        pairs = (before(stop) - before(start)).sum(-1) + common[:, 0]  # [B, H, nB]
        # a query before the window attends to its own key at least; where it is chosen, it is counted already
        diagonal = torch.maximum(first, torch.tensor(sink))
        chosen = (stop - torch.maximum(start, diagonal)).clamp(min=0).sum(-1)
        pairs += (window - diagonal).clamp(min=0)[:, 0] - chosen
        pairs[..., :dense] = before(end)[:dense, 0]
        return int(pairs.sum()) * self.group

    @property
    def executed(self) -> int:
        """Pairs whose score ``attend`` computes, rows padded to whole tiles."""
        layout = self.layout
        sink, dense = layout.settings.sink, layout.num_dense
        first, end, window, start, stop = self._spans()
        local = torch.minimum(window, first)  # from here on every key is in the tile: the window, and the queries' own
        keys = (torch.minimum(stop, local) - start).clamp(min=0).sum(-1)
        keys += (end.clamp(max=sink) + end - torch.maximum(local, end.clamp(max=sink)))[:, 0]
        keys[..., :dense] = end[:dense, 0]
        tiles = -(-(self.group if layout.len_q == 1 else layout.block_m) // ROW_TILE)
        return int(keys.sum()) * tiles * ROW_TILE
