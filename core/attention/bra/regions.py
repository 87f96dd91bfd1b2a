"""Regions of a token map and the coarse routing between them: steps 3.2 and 3.4-3.6 of methods/biformer.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..equations import accumulator


class Regions(NamedTuple):
    """A map cut into ``rows`` x ``cols`` regions of ``tall`` x ``wide`` tokens; the last may reach past the map.

    Regions are numbered row by row, and so are the tokens inside a region.
    """

    grid: tuple[int, int]
    rows: int
    cols: int
    tall: int
    wide: int

    @property
    def total(self) -> int:
        return self.rows * self.cols

    @property
    def size(self) -> int:
        """Tokens per region, T."""
        return self.tall * self.wide

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width of all regions together."""
        return self.rows * self.tall, self.cols * self.wide

    @property
    def fits(self) -> bool:
        """Whether no region reaches past the map."""
        return self.padded == self.grid


def cut(grid: tuple[int, int], n_win: int, *, pad: bool) -> Regions:
    """``n_win`` x ``n_win`` regions; with ``pad`` the map grows to the next multiple. Raises ``ValueError``."""
    height, width = grid
    if n_win < 1:
        raise ValueError(f"n_win is {n_win}: it counts regions per side, use 1 or more.")
    if not pad and (height % n_win or width % n_win):
        common = [n for n in range(1, min(grid) + 1) if height % n == width % n == 0]
        raise ValueError(
            f"n_win={n_win} does not divide the grid {height}x{width}. "
            f"Use pad=True, or n_win of {', '.join(map(str, common))}."
        )
    return Regions(grid, n_win, n_win, -(-height // n_win), -(-width // n_win))


def cut_floor(grid: tuple[int, int], n_win: int) -> Regions:
    """Regions of floor(side / n_win) tokens, as many as cover the map: the rule ``pad='post'``."""
    height, width = grid
    if not 1 <= n_win <= min(grid):
        raise ValueError(f"n_win={n_win} regions per side do not fit the grid {height}x{width}: use 1 to {min(grid)}.")
    tall, wide = height // n_win, width // n_win
    return Regions(grid, -(-height // tall), -(-width // wide), tall, wide)


def pad_map(x: Tensor, regions: Regions) -> Tensor:
    """[B, H, L, D] as a map [B, H, rows * tall, cols * wide, D], zeros to the right and below."""
    height, width = regions.grid
    x = x.reshape(*x.shape[:2], height, width, x.shape[3])
    if regions.fits:
        return x
    return F.pad(x, (0, 0, 0, regions.padded[1] - width, 0, regions.padded[0] - height))


def to_regions(x: Tensor, regions: Regions, group: int = 1) -> Tensor:
    """[B, H * group, L, D] -> [H, B * P, group * T, D], heads first: a region of one head is one piece of memory."""
    batch, heads, _, dim = x.shape
    x = pad_map(x, regions).reshape(
        batch, heads // group, group, regions.rows, regions.tall, regions.cols, regions.wide, dim
    )  # [B, H, group, rows, tall, cols, wide, D]
    return x.permute(1, 0, 3, 5, 2, 4, 6, 7).reshape(
        x.shape[1], batch * regions.total, group * regions.size, dim
    )  # [H, B * P, group * T, D]


def from_regions(x: Tensor, regions: Regions, batch: int, group: int = 1) -> Tensor:
    """The inverse of ``to_regions``, padding cropped."""
    heads, dim = x.shape[0], x.shape[-1]
    x = x.reshape(heads, batch, regions.rows, regions.cols, group, regions.tall, regions.wide, dim)
    x = x.permute(1, 0, 4, 2, 5, 3, 6, 7).reshape(batch, heads * group, *regions.padded, dim)
    height, width = regions.grid
    return x[:, :, :height, :width].reshape(batch, heads * group, height * width, dim)


def inside(regions: Regions, device: torch.device | None = None) -> Tensor:
    """Which tokens of each region lie on the map: bool [P, T]."""
    ones = torch.ones(1, 1, regions.grid[0] * regions.grid[1], 1, dtype=torch.bool, device=device)
    return to_regions(ones, regions)[0, :, :, 0]


def region_means(x: Tensor, regions: Regions, *, only_inside: bool) -> Tensor:
    """Step 3.4. Mean over the tokens of each region, all heads side by side: [B, H, L, D] -> [B, P, H * D].

    At least float32, and detached: no gradient goes through routing. ``only_inside`` leaves padding out of the mean.
    """
    batch, heads, _, dim = x.shape
    tiles = pad_map(x.detach(), regions).reshape(
        batch, heads, regions.rows, regions.tall, regions.cols, regions.wide, dim
    )
    total = tiles.sum((3, 5), dtype=accumulator(x.dtype))  # [B, H, rows, cols, D]
    total = total.permute(0, 2, 3, 1, 4).reshape(batch, regions.total, heads * dim)
    if not only_inside or regions.fits:
        return total / regions.size
    return total / inside(regions, x.device).sum(1).clamp(min=1)[:, None]


@dataclass(frozen=True)
class Routing:
    """Which regions each region attends to; a ``contract.Selection``.

    Attributes
    ----------
    index : Tensor [B, P, topk], int64
        Regions chosen, best first; shared by all heads.
    weight : Tensor [B, P, topk]
        Softmax over the chosen logits; used by soft routing only.
    logits : Tensor [B, P, P]
        Scaled products of the region means.
    regions : Regions
    num_heads : int
        Query heads, for the counts.
    masked : bool
        Whether padding is hidden from attention.
    """

    index: Tensor
    weight: Tensor
    logits: Tensor
    regions: Regions
    num_heads: int
    masked: bool

    @property
    def useful(self) -> int:
        tokens = inside(self.regions, self.index.device).sum(1)  # [P]
        return self.num_heads * int((tokens[:, None] * tokens[self.index]).sum())

    @property
    def executed(self) -> int:
        return self.num_heads * self.index.numel() * self.regions.size**2

    @property
    def searched(self) -> int:
        return self.num_heads * self.logits.numel()

    def flat(self) -> tuple[Tensor, Tensor | None]:
        """``index`` into the regions of all samples, [B * P, topk]; which of their tokens to see [B * P, topk * T].

        The second is None where all are.
        """
        first = torch.arange(self.index.shape[0], device=self.index.device)[:, None, None] * self.regions.total
        index = (self.index + first).flatten(0, 1)
        if not self.masked:
            return index, None
        return index, inside(self.regions, index.device)[self.index.flatten(0, 1)].flatten(1)

    def mask(self, rows: Tensor) -> Tensor:
        """bool [B, Hq, R, L]: the tokens of the regions chosen by each row's region."""
        region = self.region_of_tokens()
        chosen = self.chosen()[:, region[rows]]  # [B, R, P]
        return chosen[:, :, region][:, None].expand(-1, self.num_heads, -1, -1)

    def chosen(self) -> Tensor:
        """bool [B, P, P]: whether region p chose region r."""
        return torch.zeros_like(self.logits, dtype=torch.bool).scatter_(2, self.index, True)

    def region_of_tokens(self, *, padding: bool = False) -> Tensor:
        """The region of each token of the map, or with ``padding`` of the padded map: int64 [L]."""
        height, width = self.regions.padded if padding else self.regions.grid
        row = torch.arange(height, device=self.index.device) // self.regions.tall
        col = torch.arange(width, device=self.index.device) // self.regions.wide
        return (row[:, None] * self.regions.cols + col).flatten()


def route(
    q: Tensor, k: Tensor, regions: Regions, *, topk: int, scale: float, masked: bool = False, only_inside: bool = False
) -> Routing:
    """Steps 3.4-3.6. The ``topk`` regions most related to each region, for all heads together.

    Parameters
    ----------
    q, k : Tensor [B, Hq, L, D], [B, Hkv, L, D]
    regions : Regions
    topk : int
    scale : float
        On the region products.
    masked : bool
        Padding counts neither in means nor as keys, and regions of nothing but padding are chosen last.
    only_inside : bool
        Padding does not count in means, but stays a key.
    """
    if not 1 <= topk <= regions.total:
        raise ValueError(f"topk={topk} of {regions.total} regions ({regions.rows}x{regions.cols}): use 1 to that many.")
    only_inside = only_inside or masked
    q_region = region_means(q, regions, only_inside=only_inside)  # [B, P, Hq * D]
    k_region = region_means(k, regions, only_inside=only_inside)  # [B, P, Hkv * D]
    if k.shape[1] != q.shape[1]:
        by_head = k_region.reshape(*k_region.shape[:2], k.shape[1], k.shape[3])
        k_region = by_head.repeat_interleave(q.shape[1] // k.shape[1], 2).flatten(2)  # [B, P, Hq * D]
    logits = (q_region * scale) @ k_region.mT  # [B, P, P]
    if masked:
        logits = logits.masked_fill(~inside(regions, q.device).any(1), -torch.inf)
    best, index = logits.topk(topk, dim=-1)
    return Routing(index, best.softmax(-1), logits, regions, q.shape[1], masked and not regions.fits)
