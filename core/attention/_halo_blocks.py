"""Blocks of queries, windows of keys and the position terms between them: steps 3.1.3-3.1.8 of methods/halonet.md."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import accumulator

CHUNK_BYTES = 4 << 20
"""Most that one chunk's windows and scores take (one block's at least): they stay in the caches."""


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


def windows(x: Tensor, layout: Halo) -> Tensor:
    """[N, C, H, W] -> [N, rows, cols, C, win, win], a view of the map with a border of zeros."""
    height, width = layout.grid
    right, below = layout.cols * layout.block - width, layout.rows * layout.block - height
    x = F.pad(x, (layout.halo, layout.halo + right, layout.halo, layout.halo + below))
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


def attend_blocks(
    q: Tensor, k: Tensor, v: Tensor, layout: Halo, *, scale: float, height_rel: Tensor | None = None,
    width_rel: Tensor | None = None, scale_pos: bool = False, mask_border: bool = False, group: int = 1,
) -> Tensor:  # fmt: skip
    """Steps 3.1.4-3.1.8. Every block of queries attends to its window, some blocks at a time.

    Parameters
    ----------
    q : Tensor [N, rows, cols, M, D]
        From ``query_blocks``.
    k, v : Tensor [N, D, H, W], [N, Dv, H, W]
        Maps, channels first.
    layout : Halo
    scale : float
        On q·kᵀ, and with ``scale_pos`` on the position terms.
    height_rel, width_rel : Tensor [2 * win - 1, D], both or neither
    mask_border : bool
        Leave cells outside the map out of the softmax.
    group : int
        Query heads per key head, inside M.

    Returns
    -------
    Tensor [N, rows, cols, M, Dv]
    """
    total, rows, cols, queries, dim = q.shape
    value_dim, cells = v.shape[1], layout.win**2
    k_windows, v_windows = windows(k, layout), windows(v, layout)
    hidden = ~layout.inside(q.device) if mask_border else None
    per_block = cells * ((dim + value_dim) * q.element_size() + queries * (4 + q.element_size()))
    chunks = []
    for n, i, j in tiles(total, rows, cols, max(1, CHUNK_BYTES // per_block)):
        qc = q[n, i, j].reshape(-1, queries, dim)  # [c, M, D]
        kc = k_windows[n, i, j].reshape(-1, dim, cells)  # [c, D, win * win]
        vc = v_windows[n, i, j].permute(0, 1, 2, 4, 5, 3).reshape(-1, cells, value_dim)
        if height_rel is None or width_rel is None:
            scores = torch.baddbmm(qc.new_zeros(1), qc, kc, beta=0, alpha=scale)
        else:
            scores = relative_logits(qc, layout, height_rel, width_rel, group)
            scores = scores.baddbmm_(qc, kc, beta=scale if scale_pos else 1, alpha=scale)
        scores = scores.to(accumulator(q.dtype))  # [c, M, win * win]
        if hidden is not None:
            outside = hidden[i, j].expand(q[n].shape[0], -1, -1, -1).reshape(-1, 1, cells)
            scores = scores.masked_fill(outside, -torch.inf)
        chunks.append(scores.softmax(-1).to(v.dtype) @ vc)
    out = torch.cat(chunks) if chunks else q.new_empty(0, queries, value_dim)
    return out.reshape(total, rows, cols, queries, value_dim)


def tiles(total: int, rows: int, cols: int, most: int) -> Iterator[tuple[slice, slice, slice]]:
    """Cut total x rows x cols blocks into pieces of at most ``most``, each a run of the row-major order."""
    step_j = min(cols, most)
    step_i = min(rows, max(1, most // max(1, cols)))
    step_n = min(total, max(1, most // max(1, rows * cols)))
    for n in range(0, total, max(1, step_n)):
        for i in range(0, rows, step_i):
            for j in range(0, cols, step_j):
                yield slice(n, n + step_n), slice(i, i + step_i), slice(j, j + step_j)
