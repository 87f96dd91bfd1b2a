"""Blocks of queries, windows of keys and the position terms between them: steps 3.1.3-3.1.5 of methods/halonet.md."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Halo:
    """How a map of ``grid`` tokens is cut: blocks of ``block`` x ``block``, each with ``halo`` more on every side.

    ``stride`` 2: only every second row and column of the map asks, so a block holds (block / 2)² queries. Blocks may
    reach past the map to the right and below; tokens there are zeros like those of the border.
    """

    grid: tuple[int, int]
    block: int
    halo: int
    stride: int = 1

    @property
    def win(self) -> int:
        """Side of a window of keys."""
        return self.block + 2 * self.halo

    @property
    def side(self) -> int:
        """Side of a block of queries."""
        return self.block // self.stride

    @property
    def rows(self) -> int:
        return -(-self.grid[0] // self.block)

    @property
    def cols(self) -> int:
        return -(-self.grid[1] // self.block)

    @property
    def asked(self) -> tuple[int, int]:
        """Height and width of the map of queries."""
        return -(-self.grid[0] // self.stride), -(-self.grid[1] // self.stride)

    def offsets(self, device: torch.device) -> Tensor:
        """Row of a position table for query coordinate y and window coordinate r: r - y + win - 1, [side, win]."""
        window, query = torch.arange(self.win, device=device), torch.arange(self.side, device=device)
        return window - query[:, None] + self.win - 1

    def inside(self, device: torch.device) -> Tensor:
        """Which window cells of each block lie on the map: bool [rows, cols, win * win]."""
        on = []
        for size, blocks in zip(self.grid, (self.rows, self.cols), strict=True):
            at = torch.arange(blocks, device=device)[:, None] * self.block - self.halo
            at = at + torch.arange(self.win, device=device)  # [blocks, win]
            on.append((at >= 0) & (at < size))
        return (on[0][:, None, :, None] & on[1][None, :, None, :]).flatten(2)


def query_blocks(q: Tensor, layout: Halo, group: int = 1) -> Tensor:
    """[B, H * group, h, w, D] -> [B * H, rows, cols, group * side², D]; pixels row by row inside a block."""
    batch, heads, height, width, dim = q.shape
    side, rows, cols = layout.side, layout.rows, layout.cols
    q = F.pad(q, (0, 0, 0, cols * side - width, 0, rows * side - height))
    q = q.reshape(batch * heads // group, group, rows, side, cols, side, dim)
    return q.permute(0, 2, 4, 1, 3, 5, 6).reshape(-1, rows, cols, group * side * side, dim)


def from_blocks(out: Tensor, layout: Halo, batch: int, group: int = 1) -> Tensor:
    """The inverse of ``query_blocks``, cropped to the map of queries."""
    total, rows, cols, _, dim = out.shape
    side = layout.side
    out = out.reshape(total, rows, cols, group, side, side, dim).permute(0, 3, 1, 4, 2, 5, 6)
    out = out.reshape(batch, total * group // max(1, batch), rows * side, cols * side, dim)
    height, width = layout.asked
    return out[:, :, :height, :width]


def add_border(x: Tensor, layout: Halo) -> Tensor:
    """Zeros around a map [N, C, H, W]: ``halo`` on every side, and up to whole blocks to the right and below."""
    height, width = layout.grid
    right, below = layout.cols * layout.block - width, layout.rows * layout.block - height
    return F.pad(x, (layout.halo, layout.halo + right, layout.halo, layout.halo + below))


def windows(x: Tensor, layout: Halo) -> Tensor:
    """Step 3.1.4. A piece of a map with its border, [n, C, ..] -> [n, i, j, C, win, win], a view."""
    return x.unfold(2, layout.win, layout.block).unfold(3, layout.win, layout.block).permute(0, 2, 3, 1, 4, 5)


def relative_terms(
    q: Tensor, layout: Halo, height_rel: Tensor, width_rel: Tensor, group: int = 1
) -> tuple[Tensor, Tensor]:
    """Step 3.1.5. q of some blocks [c, M, D] times the table rows they can meet: for heights, widths [c, M, win]."""
    blocks, queries, dim = q.shape
    q = q.reshape(blocks * group, layout.side, layout.side, dim)  # [.., y, x, D]
    offsets = layout.offsets(q.device)
    rel_h = torch.einsum("nyxd,yrd->nyxr", q, height_rel.to(q.dtype)[offsets])
    rel_w = torch.einsum("nyxd,xrd->nyxr", q, width_rel.to(q.dtype)[offsets])
    return rel_h.reshape(blocks, queries, -1), rel_w.reshape(blocks, queries, -1)


def relative_logits(q: Tensor, layout: Halo, height_rel: Tensor, width_rel: Tensor, group: int = 1) -> Tensor:
    """The position terms of some blocks: [c, M, D] -> [c, M, win * win]."""
    rel_h, rel_w = relative_terms(q, layout, height_rel, width_rel, group)
    return (rel_h[..., :, None] + rel_w[..., None, :]).flatten(2)
