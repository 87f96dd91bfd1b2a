"""Every block of queries attends to its window, some blocks at a time: steps 3.1.6-3.1.8 of methods/halonet.md."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...choose import Formulation, Phase
from ...first_order import first_order_only
from ...opaque import opaque
from ..equations import accumulator
from . import attend_triton
from .blocks import Halo, add_border, relative_logits, windows

CHUNK_BYTES = 4 << 20
"""Most that one chunk's windows and scores take (one block's at least): they stay in the caches."""

Tile = tuple[slice, slice, slice]


@dataclass(frozen=True)
class HaloRule:
    """How scores are made; fields as the parameters of ``attend_windows``."""

    layout: Halo
    scale: float
    scale_pos: bool
    mask_border: bool
    group: int


def attend_windows(
    q: Tensor, k: Tensor, v: Tensor, layout: Halo, *, scale: float, height_rel: Tensor | None = None,
    width_rel: Tensor | None = None, scale_pos: bool = False, mask_border: bool = False, group: int = 1,
) -> Tensor:  # fmt: skip
    """Attention of blocks of queries to their windows. Gradients recompute the scores and keep none.

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
    return _attend(
        q, add_border(k, layout), add_border(v, layout), height_rel, width_rel, layout.grid, layout.block, layout.halo,
        layout.stride, scale, scale_pos, mask_border, group,
    )  # fmt: skip


ATTEND = Phase(
    "attention inside windows",
    (
        Formulation("row by row of a window, Triton", "triton", attend_triton.attend_windows, attend_triton.refuses),
        Formulation("some blocks at a time, torch", "torch", attend_windows),
    ),
)
"""``attend(q, k, v, layout, scale=, ...) -> out``, as ``attend_windows``."""


@opaque(lambda q, v, **_: q.new_empty(*q.shape[:4], v.shape[1]))
def _attend(
    q: Tensor, k: Tensor, v: Tensor, height_rel: Tensor | None, width_rel: Tensor | None, grid: tuple[int, int],
    block: int, halo: int, stride: int, scale: float, scale_pos: bool, mask_border: bool, group: int,
) -> Tensor:  # fmt: skip
    """``_Attend``, one node of a graph."""
    rule = HaloRule(Halo(grid, block, halo, stride), scale, scale_pos, mask_border, group)
    out: Tensor = _Attend.apply(q, k, v, height_rel, width_rel, rule)  # type: ignore[no-untyped-call]
    return out


def attend_tile(
    q: Tensor, k: Tensor, v: Tensor, height_rel: Tensor | None, width_rel: Tensor | None, hidden: Tensor | None,
    rule: HaloRule,
) -> Tensor:  # fmt: skip
    """Steps 3.1.6-3.1.8 for some blocks.

    q [n, i, j, M, D], pieces of maps k and v [n, D or Dv, .., ..], hidden cells bool [i, j, win * win] or None ->
    [n, i, j, M, Dv].
    """
    (*blocks, queries, dim), cells = q.shape, rule.layout.win**2
    q = q.reshape(-1, queries, dim)  # [c, M, D]
    k = windows(k, rule.layout).reshape(-1, dim, cells)  # [c, D, win * win]
    v = windows(v, rule.layout).permute(0, 1, 2, 4, 5, 3).reshape(-1, cells, v.shape[1])
    if height_rel is None or width_rel is None:
        scores = torch.baddbmm(q.new_zeros(1), q, k, beta=0, alpha=rule.scale)
    else:
        scores = relative_logits(q, rule.layout, height_rel, width_rel, rule.group)
        scores = scores.baddbmm_(q, k, beta=rule.scale if rule.scale_pos else 1, alpha=rule.scale)
    scores = scores.to(accumulator(q.dtype))  # [c, M, win * win]
    if hidden is not None:
        scores = scores.masked_fill(hidden.expand(blocks[0], -1, -1, -1).reshape(-1, 1, cells), -torch.inf)
    return (scores.softmax(-1).to(v.dtype) @ v).reshape(*blocks, queries, v.shape[2])


class _Attend(torch.autograd.Function):
    """``attend_tile`` over all tiles. Backward repeats each tile: time and memory stay linear in the map.

    Torch's own backward of slices and overlapping windows fills a map of zeros per tile: quadratic in the map.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, height_rel: Tensor | None, width_rel: Tensor | None, rule: HaloRule
    ) -> Tensor:
        ctx.save_for_backward(q, k, v, height_rel, width_rel)
        ctx.rule = rule
        out = q.new_empty(*q.shape[:4], v.shape[1])
        hidden = _hidden(rule, q.device)
        for tile in tiles(q, v, rule):
            (n, i, j), piece = tile, _piece(tile, rule.layout)
            part = None if hidden is None else hidden[i, j]
            out[n, i, j] = attend_tile(q[n, i, j], k[piece], v[piece], height_rel, width_rel, part, rule)
        return out

    @staticmethod
    @first_order_only
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *tables = ctx.saved_tensors
        rule, hidden = ctx.rule, _hidden(ctx.rule, q.device)
        given = [t for t in (q, k, v, *tables) if t is not None]
        totals = [torch.zeros_like(t, dtype=accumulator(t.dtype)) for t in given]  # windows overlap: many small sums
        for tile in tiles(q, v, rule):
            (n, i, j), piece = tile, _piece(tile, rule.layout)
            places = (tile, piece, piece, ..., ...)[: len(given)]
            leaves = [t[place].detach().requires_grad_() for t, place in zip(given, places, strict=True)]
            qc, kc, vc, height_rel, width_rel = leaves if len(leaves) == 5 else (*leaves, None, None)
            with torch.enable_grad():
                part = None if hidden is None else hidden[i, j]
                out = attend_tile(qc, kc, vc, height_rel, width_rel, part, rule)
            for total, place, gradient in zip(
                totals, places, torch.autograd.grad(out, leaves, grad[n, i, j]), strict=True
            ):
                total[place] += gradient
        sums = [total.to(t.dtype) for total, t in zip(totals, given, strict=True)]
        return *sums, *[None] * (6 - len(sums))


def _hidden(rule: HaloRule, device: torch.device) -> Tensor | None:
    """Window cells to leave out, bool [rows, cols, win * win], or None."""
    return ~rule.layout.inside(device) if rule.mask_border else None


def _piece(tile: Tile, layout: Halo) -> tuple[slice, ...]:
    """The part of a map with its border, [N, C, .., ..], that the windows of a tile cover."""
    sides = (slice(s.start * layout.block, s.stop * layout.block + 2 * layout.halo) for s in tile[1:])
    return (tile[0], slice(None), *sides)


def tiles(q: Tensor, v: Tensor, rule: HaloRule) -> Iterator[Tile]:
    """Cut N x rows x cols blocks into pieces of at most ``CHUNK_BYTES``."""
    total, rows, cols, queries, dim = q.shape
    per_block = rule.layout.win**2 * ((dim + v.shape[1]) * q.element_size() + queries * (4 + q.element_size()))
    most = max(1, CHUNK_BYTES // per_block)
    step_j, step_i, step_n = min(cols, most), max(1, most // cols), max(1, most // (rows * cols))
    for n in range(0, total, step_n):
        for i in range(0, rows, step_i):
            for j in range(0, cols, step_j):
                yield (
                    slice(n, min(n + step_n, total)), slice(i, min(i + step_i, rows)), slice(j, min(j + step_j, cols))
                )  # fmt: skip
