"""Flux attention: which keys the queries see, part by part. Specification: methods/flux-attention.md, section 3.4."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..blocks.selection import BlockSelection


@dataclass(frozen=True)
class FluxSelection:
    """Rows ``edges[i]`` .. ``edges[i + 1]`` - 1 of the queries attend as ``parts[i]`` says.

    Query blocks are counted from position 0, so the rows before the first whole block are a part of their own, and so
    are the dense rows of ``triangle``.
    """

    edges: tuple[int, ...]
    parts: tuple[BlockSelection, ...]
    searched: int

    @property
    def useful(self) -> int:
        """Query-key pairs attended to."""
        return sum(part.useful for part in self.parts)

    @property
    def executed(self) -> int:
        """Query-key pairs whose score is computed."""
        return sum(part.executed for part in self.parts)

    def mask(self, rows: Tensor) -> Tensor:
        """bool [B, Hq, R, Lk]: the keys that the queries ``rows`` (int64 [R]) attend to."""
        last = self.parts[-1]
        keep = torch.zeros(last.batch, last.num_heads, rows.numel(), last.len_k, dtype=torch.bool, device=rows.device)
        for i, part in enumerate(self.parts):
            inside = (rows >= self.edges[i]) & (rows < self.edges[i + 1])
            keep[:, :, inside, : part.len_k] = part.mask(rows[inside] - self.edges[i])
        return keep


def streaming_mask(rows: Tensor, cols: Tensor, sink_blocks: int, local_blocks: int) -> Tensor:
    """Section 3.4. Which blocks ``cols`` [N] the query blocks ``rows`` [M] see: bool [M, N], causal."""
    rows = rows[:, None]
    return (cols <= rows) & ((cols < sink_blocks) | (rows - cols < local_blocks))
