"""Statistics of attention rows, streamed over the keys in tiles: the matrix of all rows and keys is never made.

Definitions: methods/vit-analytics.md, sections 3.2, 3.3, 7. Rows confined to some keys, renormalised, are the softmax
over those keys alone: pass ``k[:, :, keys]``. What is a sum over a row, ``attention_rows`` gives in one pass; what is a
sum over rows, ``attention_sums`` in a second one, that needs the first one's ``log_total``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

TILE = (256, 1024)
"""Rows and keys: 4 bytes x batch x heads x 256 x 1024: 12 MB for twelve heads, and three such at a time."""


@dataclass(frozen=True, slots=True)
class RowStatistics:
    """Of softmax(scale q kᵀ) for the rows that were asked for; zeros where a row sees no key.

    Parameters
    ----------
    entropy : Tensor [B, Hq, R]
        In nats.
    largest : Tensor [B, Hq, R]
        The largest probability.
    where : Tensor of int64 [B, Hq, R]
        The key that has it, the first of equal ones.
    log_total : Tensor [B, Hq, R]
        Logarithm of the sum of exp(scale q kᵀ): what the second pass divides by; minus infinity where no key is seen.
    mass : Tensor [B, Hq, R, G] or None
        Probability on each group of ``columns``.
    distance : Tensor [B, Hq, R] or None
        Expected distance from the row's own place to where it looks, in the unit of the positions.
    """

    entropy: Tensor
    largest: Tensor
    where: Tensor
    log_total: Tensor
    mass: Tensor | None
    distance: Tensor | None


def attention_rows(
    q: Tensor, k: Tensor, rows: Tensor | None = None, *, scale: float | None = None, causal: bool = False,
    visible: Tensor | None = None, since: Tensor | None = None, columns: Tensor | None = None,
    positions: Tensor | None = None, tile: tuple[int, int] = TILE,
) -> RowStatistics:  # fmt: skip
    """How sharp rows of attention are, what lies on given keys, and how far they look.

    Parameters
    ----------
    q : Tensor [B, Hq, Lq, D]
    k : Tensor [B, Hkv, Lk, D]
        Hq is a multiple of Hkv.
    rows : Tensor of int64, shape (R,), optional
        Query rows; all without it.
    scale : float, optional
        Factor on q kᵀ; D ** -0.5 without it.
    causal : bool
        Row i sees keys 0 to i + Lk - Lq.
    visible : Tensor of bool [B, Lk], optional
        Keys that are no padding.
    since : Tensor of int64 [R], optional
        The first key that each row sees: of layers with a sliding window.
    columns : Tensor of bool [G, Lk], optional
        Groups of keys for ``mass``.
    positions : Tensor [Lk, 2], optional
        Where the tokens are, for ``distance``; queries are the last Lq of them.
    tile : (int, int)
        Rows and keys that are worked on at a time.

    Returns
    -------
    RowStatistics, float32; float64 for float64 queries.

    Raises
    ------
    ValueError
        If shapes do not fit.
    """
    lq, lk, groups = q.shape[2], k.shape[2], q.shape[1] // max(1, k.shape[1])
    if q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3] or q.shape[1] != groups * k.shape[1] or lq > lk:
        raise ValueError(f"q {list(q.shape)} and k {list(k.shape)} do not fit each other.")
    for name, value, wanted in (
        ("columns", columns, (*columns.shape[:1], lk) if columns is not None else ()),
        ("positions", positions, (lk, 2)),
        ("visible", visible, (q.shape[0], lk)),
    ):
        if value is not None and tuple(value.shape) != wanted:
            raise ValueError(f"{name} is {list(value.shape)}, {list(wanted)} is wanted.")
    accum = torch.promote_types(q.dtype, torch.float32)
    rows = torch.arange(lq, device=q.device) if rows is None else rows.to(q.device)
    scale = q.shape[3] ** -0.5 if scale is None else scale
    sums = columns.to(q.device, accum) if columns is not None else None  # [G, Lk]
    places = positions.to(q.device, accum) if positions is not None else None
    begin = torch.zeros_like(rows) if since is None else since.to(q.device)
    tiles = [
        _rows(q[:, :, part], k, part + lk - lq, first, scale, causal, visible, sums, places, accum, tile[1])
        for part, first in zip(rows.split(tile[0]), begin.split(tile[0]), strict=True)  # type: ignore[no-untyped-call]
    ]
    parts = [torch.cat(values, 2) for values in zip(*tiles, strict=True)]
    mass, far = parts[4], parts[5]
    return RowStatistics(
        parts[0], parts[1], parts[2], parts[3], None if columns is None else mass, None if positions is None else far
    )


def _rows(
    q: Tensor, k: Tensor, place: Tensor, begin: Tensor, scale: float, causal: bool, visible: Tensor | None,
    sums: Tensor | None, positions: Tensor | None, accum: torch.dtype, tile: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    """The fields of ``RowStatistics`` of one tile of rows, whose keys of their own are ``place``.

    A running maximum m, and sums of e = exp(x - m) times 1, x, column and distance, rescaled as m grows.
    """
    shape = q.shape[:3]  # [B, H, R]
    m = torch.full(shape, -torch.inf, dtype=accum, device=q.device)
    total, weighted, far = (torch.zeros(shape, dtype=accum, device=q.device) for _ in range(3))
    where = torch.zeros(shape, dtype=torch.int64, device=q.device)
    mass = torch.zeros((*shape, 0 if sums is None else len(sums)), dtype=accum, device=q.device)
    q, groups = q.to(accum) * scale, q.shape[1] // max(1, k.shape[1])
    for start in range(0, k.shape[2], tile):
        keys = torch.arange(start, min(start + tile, k.shape[2]), device=q.device)
        if causal and not (keys[0] <= place).any():
            break
        x = q @ k[:, :, keys].to(accum).repeat_interleave(groups, 1).mT  # [B, H, R, T]
        if causal:
            x = x.masked_fill(keys > place[:, None], -torch.inf)
        if begin.any():
            x = x.masked_fill(keys < begin[:, None], -torch.inf)
        if visible is not None:
            x = x.masked_fill(~visible[:, None, None, keys].to(x.device), -torch.inf)
        top, index = x.max(-1)
        where = torch.where(top > m, start + index, where)
        new = torch.maximum(m, top)
        safe = new.masked_fill(new == -torch.inf, 0)  # rows without a key so far
        shrink = (m - safe).exp()
        e = (x - safe[..., None]).exp()
        total = total * shrink + e.sum(-1)
        weighted = weighted * shrink + (e * x.masked_fill(e == 0, 0)).sum(-1)
        if sums is not None:
            mass = mass * shrink[..., None] + e @ sums[:, keys].mT
        if positions is not None:
            far = far * shrink + (
                e * torch.cdist(positions[place], positions[keys], compute_mode="donot_use_mm_for_euclid_dist")
            ).sum(-1)
        m = new
    seen = total > 0
    safe_total = total.masked_fill(~seen, 1)
    entropy = (safe_total.log() + m - weighted / safe_total).masked_fill(~seen, 0).clamp(min=0)
    largest = (1 / safe_total).masked_fill(~seen, 0)
    return entropy, largest, where, total.log() + m, mass / safe_total[..., None], far / safe_total


@dataclass(frozen=True, slots=True)
class MapSums:
    """Sums over all rows of a map of attention a = exp(scale q kᵀ - log_total), float64.

    Parameters
    ----------
    received : Tensor [B, Hq, Lk]
        Of each column: what a key gets from all queries.
    offsets : Tensor [B, Hq, 2 h - 1, 2 w - 1] or None
        What lies dr rows below and dc columns right of its query, at [h - 1 + dr, w - 1 + dc].
    weighted : Tensor [B, Hq, 2 h - 1, 2 w - 1] or None
        The same of attention times weights.
    entropy : Tensor [B, Hq, Lq] or None
        -sum over keys of a ln(a + eps).
    """

    received: Tensor
    offsets: Tensor | None
    weighted: Tensor | None
    entropy: Tensor | None


def attention_sums(
    q: Tensor, k: Tensor, log_total: Tensor, *, scale: float | None = None, grid: tuple[int, int] | None = None,
    weigh: Callable[[Tensor, Tensor], Tensor] | None = None, eps: float | None = None, tile: tuple[int, int] = TILE,
) -> MapSums:  # fmt: skip
    """What keys receive, and how far away from the queries: columns and offsets of a map that is never made.

    Parameters
    ----------
    q : Tensor [B, Hq, Lq, D]
    k : Tensor [B, Hkv, Lk, D]
        Hq is a multiple of Hkv.
    log_total : Tensor [B, Hq, Lq]
        Of ``attention_rows`` for these rows and keys; larger to divide by more.
    scale : float, optional
        As it was there.
    grid : (h, w), optional
        Queries and keys are the cells of one grid, row by row: for ``offsets``.
    weigh : callable, optional
        Numbers of rows [R] and of keys [T] -> weights [R, T], for ``weighted``.
    eps : float, optional
        For ``entropy``.
    tile : (int, int)
        Rows and keys that are worked on at a time; whole lines of a grid, one at least.

    Raises
    ------
    ValueError
        If shapes do not fit.
    """
    lq, lk, groups = q.shape[2], k.shape[2], q.shape[1] // max(1, k.shape[1])
    if q.shape[1] != groups * k.shape[1] or tuple(log_total.shape) != tuple(q.shape[:3]):
        raise ValueError(f"q {list(q.shape)}, k {list(k.shape)} and log_total {list(log_total.shape)} do not fit.")
    if grid is not None and not lq == lk == grid[0] * grid[1]:
        raise ValueError(f"{lq} queries and {lk} keys are no grid of {grid[0]} x {grid[1]}.")
    accum, line = torch.promote_types(q.dtype, torch.float32), 1 if grid is None else grid[1]
    rows, columns = (max(1, length // line) * line for length in tile)
    double = partial(torch.zeros, dtype=torch.float64, device=q.device)
    received = double((*q.shape[:2], lk))
    offsets = None if grid is None else double((*q.shape[:2], 2 * grid[0] - 1, 2 * grid[1] - 1))
    weighted = None if offsets is None or weigh is None else torch.zeros_like(offsets)
    entropy = None if eps is None else double((*q.shape[:3],))
    scale = q.shape[3] ** -0.5 if scale is None else scale
    for first in range(0, lq, rows):
        queries, total = q[:, :, first : first + rows].to(accum) * scale, log_total[:, :, first : first + rows, None]
        for start in range(0, lk, columns):
            keys = k[:, :, start : start + columns].to(accum).repeat_interleave(groups, 1)
            a = (queries @ keys.mT).sub_(total).exp_()  # [B, H, R, T]
            received[:, :, start : start + columns] += a.sum(-2)
            if offsets is not None:
                _add_offsets(offsets, a, line, first // line, start // line)
            if weighted is not None and weigh is not None:
                parts = (torch.arange(at, at + length) for at, length in ((first, a.shape[2]), (start, a.shape[3])))
                _add_offsets(weighted, a * weigh(*parts).to(a), line, first // line, start // line)
            if entropy is not None and eps is not None:
                entropy[:, :, first : first + rows] -= (a * (a + eps).log()).sum(-1)
    return MapSums(received, offsets, weighted, entropy)


def _add_offsets(offsets: Tensor, a: Tensor, line: int, top: int, below: int) -> None:
    """Add a tile of whole lines, the queries' from ``top`` on and the keys' from ``below`` on, to a histogram."""
    above, under = a.shape[-2] // line, a.shape[-1] // line
    lines = a.view(*a.shape[:2], above, line, under, line).transpose(3, 4)
    by_line = _diagonals(lines)  # [B, H, above, under, 2 w - 1]
    found = _diagonals(by_line.movedim(-1, 2)).mT  # [B, H, above + under - 1, 2 w - 1]
    start = offsets.shape[2] // 2 + below - top - (above - 1)
    offsets[:, :, start : start + found.shape[2]] += found


def _diagonals(x: Tensor) -> Tensor:
    """Sums over the diagonals of [..., n, m], by column less row from 1 - n to m - 1: [..., n + m - 1].

    Each row, the last first, is moved on by one against the one before: n zeros behind it, and one of them cut.
    """
    n, m = x.shape[-2:]
    skewed = F.pad(x.flip(-2), (0, n)).flatten(-2)[..., : n * (n + m - 1)]
    return skewed.view(*x.shape[:-2], n, n + m - 1).sum(-2)
