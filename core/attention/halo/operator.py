"""Blocked local attention with halos: a block of queries attends to itself and a border of ``halo`` tokens around it.

Paper: HaloNet, CVPR 2021 (arXiv 2103.12731); the reference is timm's form. Specification: methods/halonet.md, section
3.1; step numbers are its numbers. The projections around it, down-sampling by stride 2 and the backbones are in
``halonet``: an operator returns one output per query, so it has no stride.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...choose import Formulation
from ..contract import Condition, Cost, Golden, Operator, Shape
from ..equations import accumulator, repeat_kv, weighted_sum
from .attend import ATTEND
from .blocks import Halo, from_blocks, query_blocks


def halo_of(grid: tuple[int, int], block_size: int, halo: int, *, pad: bool, stride: int = 1) -> Halo:
    """The blocks of a map. Raises ``ValueError``."""
    if block_size < 1 or halo < 0:
        raise ValueError(f"block_size={block_size}, halo={halo}: use a block of 1 or more and a halo of 0 or more.")
    if not pad and (grid[0] % block_size or grid[1] % block_size):
        common = [n for n in range(1, min(grid) + 1) if grid[0] % n == grid[1] % n == 0]
        raise ValueError(
            f"block_size={block_size} does not divide the grid {grid[0]}x{grid[1]}. "
            f"Use pad=True, or block_size of {', '.join(map(str, common))}."
        )
    return Halo(grid, block_size, halo, stride)


@dataclass(frozen=True, slots=True, eq=False)
class Settings:
    """Blocks, what they see around them, and positions.

    Parameters
    ----------
    block_size : int
        Side b of a block of queries, 1 or more; 1 is a sliding window per pixel.
    halo : int
        Tokens h around a block that its queries see too; 0 is plain window attention. Each query sees (b + 2h)² cells.
    height_rel, width_rel : Tensor [2 * (b + 2h) - 1, D], optional
        Tables of relative positions, shared by all heads: q times their rows is added to the scores, unscaled.
    scale_pos : bool
        Multiply that term by ``scale`` too.
    mask_border : bool
        Leave cells outside the map out. Without it they are keys of zeros that take their part of the softmax, as in
        the trained models. Ours.
    pad : bool
        Accept maps that ``block_size`` does not divide: what lies beyond the map counts as border.

    Raises
    ------
    ValueError
        If one table comes without the other. Of the operator: if block_size does not divide the map and ``pad`` is off,
        a size is out of range, or a table does not fit.
    """

    block_size: int = 8
    halo: int = 3
    height_rel: Tensor | None = None
    width_rel: Tensor | None = None
    scale_pos: bool = False
    mask_border: bool = False
    pad: bool = False

    def __post_init__(self) -> None:
        if (self.height_rel is None) != (self.width_rel is None):
            raise ValueError("height_rel and width_rel come together: pass both or neither.")

    def layout(self, grid: tuple[int, int], dim: int) -> Halo:
        """The blocks of a map whose heads have ``dim`` channels. Raises ``ValueError``."""
        layout = halo_of(grid, self.block_size, self.halo, pad=self.pad)
        for name, table in (("height_rel", self.height_rel), ("width_rel", self.width_rel)):
            if table is not None and table.shape != (2 * layout.win - 1, dim):
                raise ValueError(
                    f"{name} has shape {list(table.shape)}; block_size={layout.block}, halo={layout.halo} and head_dim "
                    f"{dim} need [{2 * layout.win - 1}, {dim}]. A table belongs to the sizes it was trained with."
                )
        return layout


def _cells(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Row and column of every cell of a map, int64 [height * width] each."""
    cell = torch.arange(height * width, device=device)
    return cell // width, cell % width


def reference(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, scale: float | None = None, grid: tuple[int, int],
    settings: Settings,
) -> Tensor:  # fmt: skip
    """The equations over the whole map with its border of zeros, dense."""
    layout = settings.layout(grid, q.shape[3])
    block_size, halo, height_rel, width_rel = layout.block, layout.halo, settings.height_rel, settings.width_rel
    scale = q.shape[3] ** -0.5 if scale is None else scale
    (height, width), win = grid, layout.win
    below, right = (-size % block_size + halo for size in grid)
    k, v = (
        F.pad(repeat_kv(x, q.shape[1]).reshape(*q.shape[:2], *grid, x.shape[3]), (0, 0, halo, right, halo, below))
        for x in (k, v)
    )
    tall, wide = k.shape[2:4]
    y, x = _cells(height, width, q.device)
    r, c = _cells(tall, wide, q.device)
    # with the border counted, the window of a block starts where the block itself starts on the map
    from_top, from_left = r - (y // block_size * block_size)[:, None], c - (x // block_size * block_size)[:, None]
    visible = (from_top >= 0) & (from_top < win) & (from_left >= 0) & (from_left < win)  # [L, border included]
    if settings.mask_border:
        visible &= (r >= halo) & (r < halo + height) & (c >= halo) & (c < halo + width)

    scores = (q @ k.flatten(2, 3).mT) * scale
    if height_rel is not None and width_rel is not None:
        position = torch.zeros_like(scores)
        for table, at in ((height_rel, r - y[:, None]), (width_rel, c - x[:, None])):
            row = (at + win - 1).clamp(0, 2 * win - 2)  # those beyond are not visible
            position = position + (q @ table.to(q.dtype).mT).gather(3, row.expand_as(scores))
        scores = scores + position * (scale if settings.scale_pos else 1.0)
    scores = scores.to(accumulator(q.dtype)).masked_fill(~visible, -torch.inf)
    return weighted_sum(scores.softmax(-1).to(v.dtype), v.flatten(2, 3), visible)


def attend(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, scale: float | None = None, grid: tuple[int, int],
    settings: Settings, engine: Formulation,
) -> Tensor:  # fmt: skip
    """Block by block. Differentiable in q, k, v and the tables."""
    layout = settings.layout(grid, q.shape[3])
    batch, heads, tokens, dim = q.shape
    kv_heads, group = k.shape[1], heads // k.shape[1]
    kc, vc = (x.transpose(2, 3).reshape(batch * kv_heads, x.shape[3], *grid) for x in (k, v))  # channels first
    out = engine.function(
        query_blocks(q.reshape(batch, heads, *grid, dim), layout, group), kc, vc, layout,
        scale=dim**-0.5 if scale is None else scale, height_rel=settings.height_rel, width_rel=settings.width_rel,
        scale_pos=settings.scale_pos, mask_border=settings.mask_border, group=group,
    )  # fmt: skip
    return from_blocks(out, layout, batch, group).reshape(batch, heads, tokens, v.shape[3])


def cost(shape: Shape, *, settings: Settings) -> Cost:
    """Section 7, without the projections."""
    side = round(shape.len_k**0.5)
    pad = settings.pad or shape.grid is None
    layout = halo_of(shape.grid or (side, side), settings.block_size, settings.halo, pad=pad)
    cells, heads = layout.win**2, shape.batch * shape.num_heads
    tokens, dims = layout.rows * layout.cols * layout.block**2, shape.head_dim + shape.value_dim
    flops = 2.0 * heads * tokens * cells * dims
    if settings.height_rel is not None:
        flops += 2.0 * heads * tokens * 2 * layout.win * shape.head_dim
    read = shape.batch * shape.num_kv_heads * layout.rows * layout.cols * cells * dims
    return Cost(flops, (heads * tokens * dims + read) * float(shape.itemsize), 0.0, float(cells))


def at_budget(keys: int, shape: Shape) -> dict[str, Any]:
    """Block and halo whose window has about ``keys`` cells, in the proportion of the default (8 to 3)."""
    win = max(1, round(keys**0.5))
    halo = round(win * 3 / 14)
    return {"block_size": max(1, win - 2 * halo), "halo": halo, "pad": True}


OPERATOR = Operator(
    settings=Settings,
    reference=reference,
    phases=(ATTEND.used_by("halo", attend),),
    cost=cost,
    at_budget=at_budget,
    causal=(False,),
    grid=True,
    decodes=False,
    conditions={"scale_pos": Condition("height_rel and width_rel", lambda params: params["height_rel"] is not None)},
    differentiable=True,
    small={"block_size": 4, "halo": 1},
    golden=Golden(
        "halonet",
        "attn.core.attention.halo.golden:check",
        (
            "halo_basic",
            "halo_scalepos_bias",
            "halo_stride2",
            "halo_stride2_avg",
            "halo_basic_masked",
            "halo_scalepos_bias_masked",
        ),
    ),
)
