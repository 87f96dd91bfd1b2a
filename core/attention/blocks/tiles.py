"""Patterns and tiles of the block engine: what it walks over, and which keys of a tile each query sees."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from .softmax_cpu import cut, edges, gather_bfloat16, gather_words

Rows = np.ndarray[Any, np.dtype[np.int64]]
Spans = Rows
_EVERYTHING = 1 << 60  # a window that reaches back to the first key


class Pattern(Protocol):
    """What the engine needs to know about a selection.

    ``tile_keys``: keys of a tile, None for the engine's choice. ``window``, ``num_sinks``: where ``window`` is not
    None, a query at position p sees of its spans only the keys above p - window and those below ``num_sinks``.
    """

    @property
    def block_m(self) -> int: ...
    @property
    def tile_keys(self) -> int | None: ...
    @property
    def len_q(self) -> int: ...
    @property
    def len_k(self) -> int: ...
    @property
    def causal(self) -> bool: ...
    @property
    def window(self) -> int | None: ...
    @property
    def num_sinks(self) -> int: ...

    def spans(self, head: int, block: int) -> Spans:
        """Key ranges [start, stop) of a query block, ascending and disjoint: int64 [n, 2]."""
        ...

    def lists(self) -> tuple[Tensor, Tensor] | None:
        """All key ranges where their tensors are: ``indptr`` int64 [lists + 1] and ranges [., 2], as
        ``kernels.blocks.Runs`` has them; None for a rule, which is the same for all heads.
        """
        ...


class Tile(NamedTuple):
    """Some keys of a query block.

    Query i sees the columns below ``last[i]``, except those from ``sinks`` on that are below ``first[i]``. Both are
    int64 [rows], or None where every query sees every key of the tile.
    """

    spans: Spans
    width: int
    first: Rows | None
    last: Rows | None
    sinks: int

    def hidden(self, device: torch.device) -> Tensor | None:
        """bool [rows, width]: what each query does not see; None where it sees all."""
        if self.first is None or self.last is None:
            return None
        column = torch.arange(self.width, device=device)
        first = torch.from_numpy(self.first).to(device)[:, None]
        last = torch.from_numpy(self.last).to(device)[:, None]
        return (column >= last) | ((column >= self.sinks) & (column < first))


def tiles(pattern: Pattern, head: int, block: int, size: int) -> list[Tile]:
    """The keys of a query block in tiles of at most ``size``, with what each query sees of them."""
    start = block * pattern.block_m
    rows = min(pattern.block_m, pattern.len_q - start)
    at = start + pattern.len_k - pattern.len_q
    spans = pattern.spans(head, block)
    limit = at + rows if pattern.causal else pattern.len_k
    most = limit // size + 1
    pieces = np.empty((len(spans) + most, 2), dtype=np.int64)
    ends, widths = np.zeros(most + 1, dtype=np.int64), np.zeros(most, dtype=np.int64)
    cut()(spans, limit, size, pieces, ends, widths)
    return [
        _tile(pattern, pieces[first:last], int(width), at, rows)
        for first, last, width in zip(ends[:-1], ends[1:], widths, strict=True)
        if width
    ]


def _tile(pattern: Pattern, spans: Spans, width: int, at: int, rows: int) -> Tile:
    """``at``: position of the block's first query."""
    window = pattern.window
    beyond = pattern.causal and spans[-1, 1] > at + 1
    before = window is not None and spans[0, 0] <= at + rows - 1 - window
    if not beyond and not before:
        return Tile(spans, width, None, None, width)
    first, last = np.empty((2, rows), dtype=np.int64)
    edges()(spans, at, _EVERYTHING if window is None else window, first, last)
    sinks = 0
    if pattern.num_sinks:
        sinks = int(np.clip(pattern.num_sinks - spans[:, 0], 0, spans[:, 1] - spans[:, 0]).sum())
    return Tile(spans, width, first, last, sinks)


def gather(x: Tensor, spans: Spans) -> Tensor:
    """The rows ``spans`` of ``x`` [L, D] one behind the other; a view where they are one run."""
    if len(spans) == 1:
        return x[int(spans[0, 0]) : int(spans[0, 1])]
    return torch.cat([x[a:b] for a, b in spans.tolist()])


def gather_into(buffer: Tensor, x: Tensor, spans: Spans, width: int, rows: int) -> Tensor:
    """As ``gather`` of ``width`` rows and some more, ``rows`` in all; in float32, in ``buffer`` where a copy is needed.

    The rows beyond ``width`` hold what is there, in ``buffer`` or in ``x``.
    """
    start = int(spans[0, 0])
    if len(spans) == 1 and start + rows <= x.shape[0] and x.dtype == buffer.dtype and x.is_contiguous():
        return x[start : start + rows]
    copy_rows(x, spans, buffer[:width])
    return buffer[:rows]


def copy_rows(x: Tensor, spans: Spans, out: Tensor) -> None:
    """As ``gather``, into ``out`` [n, D], in its dtype. Tensors of the CPU."""
    whole = all(count * x.itemsize % 4 == 0 for count in (x.shape[1], x.stride(0), x.storage_offset()))
    words = whole and x.is_contiguous() and out.is_contiguous()
    if len(spans) == 1:
        out.copy_(gather(x, spans))
    elif words and x.dtype == out.dtype:
        gather_words()(x.view(torch.int32).numpy(), spans, out.view(torch.int32).numpy())
    elif words and (x.dtype, out.dtype) == (torch.bfloat16, torch.float32):
        gather_bfloat16()(x.view(torch.uint16).numpy(), spans, out.view(torch.uint32).numpy())
    else:
        torch.cat([x[a:b] for a, b in spans.tolist()], out=out)
