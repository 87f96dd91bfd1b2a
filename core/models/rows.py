"""Statistics of attention rows, streamed over the keys in tiles: the matrix of all rows and keys is never made.

Definitions: methods/vit-analytics.md, sections 3.2 and 3.3. Rows confined to some keys, renormalised, are the softmax
over those keys alone: pass ``k[:, :, keys]``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

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
    mass : Tensor [B, Hq, R, G] or None
        Probability on each group of ``columns``.
    distance : Tensor [B, Hq, R] or None
        Expected distance from the row's own place to where it looks, in the unit of the positions.
    """

    entropy: Tensor
    largest: Tensor
    mass: Tensor | None
    distance: Tensor | None


def attention_rows(
    q: Tensor, k: Tensor, rows: Tensor | None = None, *, scale: float | None = None, causal: bool = False,
    visible: Tensor | None = None, columns: Tensor | None = None, positions: Tensor | None = None,
    tile: tuple[int, int] = TILE,
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
    tiles = [
        _rows(q[:, :, part], k, part + lk - lq, scale, causal, visible, sums, places, accum, tile[1])
        for part in torch.split(rows, tile[0])  # type: ignore[no-untyped-call]
    ]
    parts = [torch.cat(values, 2) for values in zip(*tiles, strict=True)]
    return RowStatistics(
        parts[0], parts[1], parts[2] if columns is not None else None, parts[3] if positions is not None else None
    )


def _rows(
    q: Tensor, k: Tensor, place: Tensor, scale: float, causal: bool, visible: Tensor | None, sums: Tensor | None,
    positions: Tensor | None, accum: torch.dtype, tile: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Entropy, maximum, mass and distance of one tile of rows, whose keys of their own are ``place``.

    A running maximum m, and sums of e = exp(x - m) times 1, x, column and distance, rescaled as m grows.
    """
    shape = q.shape[:3]  # [B, H, R]
    m = torch.full(shape, -torch.inf, dtype=accum, device=q.device)
    total, weighted, far = (torch.zeros(shape, dtype=accum, device=q.device) for _ in range(3))
    mass = torch.zeros((*shape, 0 if sums is None else len(sums)), dtype=accum, device=q.device)
    q, groups = q.to(accum) * scale, q.shape[1] // max(1, k.shape[1])
    for start in range(0, k.shape[2], tile):
        keys = torch.arange(start, min(start + tile, k.shape[2]), device=q.device)
        if causal and not (keys[0] <= place).any():
            break
        x = q @ k[:, :, keys].to(accum).repeat_interleave(groups, 1).mT  # [B, H, R, T]
        if causal:
            x = x.masked_fill(keys > place[:, None], -torch.inf)
        if visible is not None:
            x = x.masked_fill(~visible[:, None, None, keys].to(x.device), -torch.inf)
        new = torch.maximum(m, x.amax(-1))
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
    return entropy, largest, mass / safe_total[..., None], far / safe_total
