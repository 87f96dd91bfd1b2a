"""Rows of an image tower that attend to each other, and their attention in tiles of rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ROWS = 256
"""Rows of attention at a time: 4 bytes x heads x 256 x patches: 12 MB for 16 heads and 729 patches."""


@dataclass(frozen=True, slots=True)
class TowerSegment:
    """Rows of the tower that attend to each other: a picture, a tile, a frame or a window.

    Parameters
    ----------
    start : int
        Its first row among all.
    q, k : Tensor [H, n, d]
    mask : Tensor [1 or H, 1 or n, n] or None
        bool (True = keep) or added.
    scale : float
    """

    start: int
    q: Tensor
    k: Tensor
    mask: Tensor | None
    scale: float

    def attention(self, rows: slice) -> Tensor:
        """Probabilities of rows, [H, R, n], float32."""
        logits = (self.q[:, rows].float() * self.scale) @ self.k.float().mT
        if self.mask is not None:
            mask = self.mask[:, rows] if self.mask.shape[1] > 1 else self.mask
            logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
        return logits.softmax(-1)

    def counted(self) -> Tensor:
        """Rows that are no padding: that see themselves, [n] bool."""
        n = self.q.shape[1]
        if self.mask is None:
            return torch.ones(n, dtype=torch.bool, device=self.q.device)
        itself = self.mask[0].expand(n, n).diagonal()
        return itself if itself.dtype == torch.bool else itself > torch.finfo(itself.dtype).min / 2

    def received(self, meant: Tensor, among: Tensor | None) -> Tensor:
        """Mean attention of the rows that are meant [n], over heads, [n]; among some columns alone, renormalised."""
        n = self.q.shape[1]
        total = torch.zeros(n, device=self.q.device)
        for start in range(0, n, ROWS):
            part = slice(start, start + ROWS)
            weight = meant[part].float()
            if not weight.any():
                continue
            attention = self.attention(part)
            if among is not None:
                attention = attention * among
                attention = attention / attention.sum(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
            total += (attention.mean(0) * weight[:, None]).sum(0)
        return total / meant.sum().clamp(min=1)
