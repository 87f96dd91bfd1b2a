"""Forward pass of the block engine by PyTorch's own attention, over the keys of some query blocks, gathered.

For processors where it is several times as fast as float32 products are: with AMX it multiplies bfloat16 and adds in
float32. A call takes some query blocks as if they were heads, because it packs its tiles for AMX from four heads on;
they are blocks of like many keys, so that little is padding, and what a query does not see is in a mask.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...threads import run_in_turns
from ..equations import needs_cpu_floats, repeat_kv
from ..products import sdpa_is_fast
from .forward import forward as plainly
from .forward import forward_where_not_finite
from .forward_cpu import forward as by_tiles
from .forward_cpu import refuses as tiles_refuse
from .softmax_cpu import hide_16, hide_32
from .tiles import Pattern, Tile, copy_rows, tiles

_BLOCKS = 4  # query blocks of a call
_ROWS = 16  # of a tile of AMX
_MASK_ENTRIES = 1 << 22  # of a chunk of rows, where a whole call needs a mask
_LARGEST_SCORE = 1e38
Group = list[tuple[int, Tile]]


def refuses(q: Tensor, k: Tensor, *_: Any, **__: Any) -> str | None:
    """Why ``forward`` does not take a call of attention over blocks."""
    reason = needs_cpu_floats(q)
    if reason is None and not sdpa_is_fast(q.dtype):
        reason = f"is for processors that multiply {q.dtype} by AMX"
    if reason is None and (q.shape[2] < _ROWS or not k.shape[2]):
        reason = f"takes {_ROWS} queries or more, and at least one key"
    return reason


def sdpa_with_lse(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, causal: bool = False, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """PyTorch's attention on the CPU, with the log-sum-exp that its public form keeps to itself.

    Parameters
    ----------
    q, k, v : Tensor [B, H, Lq, D], [B, H, Lk, D], [B, H, Lk, D]
        float32, bfloat16 or float16; at least one key.
    scale : float
        PyTorch hides keys before it scales, so that with a scale of 0 or less it would hide them with NaN or infinity:
        here ``positive_scale`` takes care of it.
    causal : bool
        Query i sees the keys up to i: the first ones, where there are more keys than queries.
    mask : Tensor [B or 1, H or 1, Lq, Lk], dtype of ``q``, optional
        Added to the scaled scores.

    Returns
    -------
    out : Tensor [B, H, Lq, D], dtype of ``q``
    lse : Tensor float32 [B, H, Lq]
        0 in rows that see no key, whose ``out`` is 0.
    """
    q, scale = positive_scale(q, scale)
    result: tuple[Tensor, Tensor] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, 0.0, causal, attn_mask=mask, scale=scale
    )
    return result


def positive_scale(q: Tensor, scale: float) -> tuple[Tensor, float]:
    """Queries and a scale greater than 0 that make the same scores."""
    if scale > 0:
        return q, scale
    return (-q, -scale) if scale < 0 else (q * 0, 1.0)


def scores_are_finite(q: Tensor, k: Tensor, scale: float) -> bool:
    """Whether no score can be NaN or infinite, by the norms of ``q`` and ``k``; to be asked before ``sdpa_with_lse``.

    PyTorch's attention takes a tile of keys whose scores hold a NaN for one without keys, and returns numbers.
    """
    norms = [float(torch.linalg.vector_norm(x, dtype=torch.float32)) for x in (q, k)]
    return norms[0] * norms[1] * max(1.0, abs(scale)) < _LARGEST_SCORE


def same_width(*tensors: Tensor) -> list[Tensor]:
    """Tensors [..., D] of several D, those that are narrower padded with zeros: PyTorch's attention wants one D."""
    width = max(x.shape[-1] for x in tensors)
    return [torch.nn.functional.pad(x, (0, width - x.shape[-1])) if x.shape[-1] < width else x for x in tensors]


def forward(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, scale: float) -> tuple[Tensor, Tensor]:
    """As ``forward.forward``; products in the inputs' dtype, sums in float32."""
    if not scores_are_finite(q, k, scale):
        return _otherwise(q, k, v, pattern, scale)
    out, lse = _forward(q, k, v, pattern, scale)
    return forward_where_not_finite(out, lse, q, k, v, pattern, scale)


def _otherwise(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, scale: float) -> tuple[Tensor, Tensor]:
    """For scores that may not be finite: by tiles, or plainly where those refuse the call."""
    engine = plainly if tiles_refuse(q, scale=scale) else by_tiles
    return engine(q, k, v, pattern, scale)


def _forward(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, scale: float) -> tuple[Tensor, Tensor]:
    """``forward`` but for rows that are not finite."""
    batch, heads, len_q, _ = q.shape
    out, lse = q.new_zeros(batch, heads, len_q, v.shape[3]), q.new_full((batch, heads, len_q), -torch.inf).float()
    q, k, v = (x if x.stride(3) == 1 else x.contiguous() for x in same_width(q, k, v))
    flat_out, flat_lse = out.view(batch * heads, len_q, -1), lse.view(batch * heads, len_q)
    todo = ((head, group) for head in range(batch * heads) for group in _groups(pattern, head))
    run_in_turns(lambda: partial(_Worker(q, k, v, pattern, scale).attend, out=flat_out, lse=flat_lse), todo)
    return out, lse


def _groups(pattern: Pattern, head: int) -> list[Group]:
    """The query blocks of a head that see a key, with their keys: some of about as many in a group, longest first.

    A block whose keys are one run is by itself: nothing of it has to be copied.
    """
    blocks = -(-pattern.len_q // pattern.block_m)
    alone: list[Group] = []
    several: Group = []
    for block in range(blocks):
        for tile in tiles(pattern, head, block, pattern.len_k):  # one, or none
            whole = (block + 1) * pattern.block_m <= pattern.len_q
            several.append((block, tile)) if whole and len(tile.spans) > 1 else alone.append([(block, tile)])
    several.sort(key=lambda member: -member[1].width)
    groups = [several[i : i + _BLOCKS] for i in range(0, len(several), _BLOCKS)]
    return sorted(alone + groups, key=lambda group: -group[0][1].width * len(group))


class _Worker:
    """One thread's buffers, and its way through a group of query blocks."""

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, scale: float) -> None:
        self.pattern, self.scale = pattern, scale
        group = q.shape[1] // k.shape[1]
        self.queries = [head for batch in q for head in batch]
        self.keys = [head for batch in k for head in batch for _ in range(group)]
        self.values = [head for batch in v for head in batch for _ in range(group)]
        # zeros: what is padding may hold what another group left there, but nothing that is no number
        self.key, self.value, self.mask = (q.new_zeros(0) for _ in range(3))

    def attend(self, head: int, group: Group, out: Tensor, lse: Tensor) -> None:
        """Rows of ``out`` [B * Hq, Lq, Dv] and ``lse`` [B * Hq, Lq] of some query blocks of one head."""
        step = self.pattern.block_m
        rows = [slice(block * step, min((block + 1) * step, self.pattern.len_q)) for block, _ in group]
        query = torch.stack([self.queries[head][part] for part in rows])
        self.key, key = _gathered(self.key, self.keys[head], group)
        self.value, value = _gathered(self.value, self.values[head], group)
        mask, seen = self._mask(group, query.shape[1], key.shape[1])
        part_out, part_lse = sdpa_with_lse(
            query[None], key[None], value[None], scale=self.scale, mask=None if mask is None else mask[None]
        )
        part_lse.masked_fill_(~seen, -torch.inf)
        for i, part in enumerate(rows):
            out[head, part] = part_out[0, i, :, : out.shape[2]]
            lse[head, part] = part_lse[0, i]

    def _mask(self, group: Group, rows: int, width: int) -> tuple[Tensor | None, Tensor]:
        """What the queries do not see as minus infinity, [n, rows, width]; and bool [n, rows], whether they see a key.

        None where every query sees everything.
        """
        seen = torch.ones(len(group), rows, dtype=torch.bool)
        if all(tile.last is None and tile.width == width for _, tile in group):
            return None, seen
        self.mask, mask = _room(self.mask, len(group), rows, width)
        bits, hide = (torch.int16, hide_16()) if mask.itemsize == 2 else (torch.int32, hide_32())
        words, hidden = mask.view(bits), int(torch.full((1,), -torch.inf, dtype=mask.dtype).view(bits))
        for i, (_, tile) in enumerate(group):
            first = np.zeros(rows, dtype=np.int64) if tile.first is None else tile.first
            last = np.full(rows, tile.width) if tile.last is None else tile.last
            hide(first, last, tile.sinks, hidden, words[i].numpy(), seen[i].numpy())
        return mask, seen


def _room(buffer: Tensor, *shape: int) -> tuple[Tensor, Tensor]:
    """``buffer``, or a greater one of zeros, and its beginning in this shape."""
    size = int(np.prod(shape))
    if buffer.numel() < size:
        buffer = buffer.new_zeros(size)
    return buffer, buffer[:size].view(shape)


def _gathered(buffer: Tensor, x: Tensor, group: Group) -> tuple[Tensor, Tensor]:
    """The keys of each block one behind the other, [n, width of the widest, D]; x [L, D]. A view of a single run."""
    if len(group) == 1 and len(group[0][1].spans) == 1:
        (start, stop) = group[0][1].spans[0].tolist()
        return buffer, x[None, start:stop]
    buffer, out = _room(buffer, len(group), max(tile.width for _, tile in group), x.shape[1])
    for part, (_, tile) in zip(out, group, strict=True):
        copy_rows(x, tile.spans, part[: tile.width])
    return buffer, out


def refuses_whole(q: Tensor, k: Tensor, *_: Any, **__: Any) -> str | None:
    """Why ``forward_whole`` does not take a call."""
    return needs_cpu_floats(q) or (None if q.numel() and k.numel() else "takes at least one query and one key")


def forward_whole(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, scale: float) -> tuple[Tensor, Tensor]:
    """As ``forward`` for a pattern that keeps every key; nothing is gathered, and PyTorch's threads do it.

    Where there are fewer queries than keys PyTorch has no causal form for it, and gets a mask for some rows at a time.
    """
    if not scores_are_finite(q, k, scale):
        return _otherwise(q, k, v, pattern, scale)
    dim = v.shape[3]
    query, key, value = same_width(q, *(repeat_kv(x, q.shape[1]) for x in (k, v)))
    query, key, value = (x if x.stride(3) == 1 else x.contiguous() for x in (query, key, value))
    len_q, len_k = pattern.len_q, pattern.len_k
    if not pattern.causal or len_q == len_k:
        out, lse = sdpa_with_lse(query, key, value, scale=scale, causal=pattern.causal)
    else:
        parts = []
        rows = max(1, _MASK_ENTRIES // len_k)
        for start in range(0, len_q, rows):
            at = torch.arange(start, min(start + rows, len_q)) + len_k - len_q
            keys = int(at[-1]) + 1
            mask = q.new_zeros(1, 1, len(at), keys)
            mask.masked_fill_(torch.arange(keys) > at[:, None], -torch.inf)
            part = query[:, :, start : start + rows], key[:, :, :keys], value[:, :, :keys]
            parts.append(sdpa_with_lse(*part, scale=scale, mask=mask))
        out, lse = (torch.cat(pieces, dim=2) for pieces in zip(*parts, strict=True))
    return forward_where_not_finite(out[..., :dim], lse, q, k, v, pattern, scale)
