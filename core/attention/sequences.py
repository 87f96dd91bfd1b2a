"""Sequences of different lengths in one call: padded to one length, or packed behind each other. DESIGN.md, section 4.

Every operator is called once per sequence, on what belongs to it alone: padding cannot reach a valid row, whatever it
holds, and no operator needs to know. Sequences of one length share a call.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from ..opaque import outside_graphs

Padding = Literal["left", "right"]
PADDINGS: tuple[str, ...] = get_args(Padding)
Lengths = Tensor | Sequence[int]


class Piece(NamedTuple):
    """Where a sequence is: its row of the batch, its queries and its keys; the queries are the last of its keys."""

    row: int
    queries: slice
    keys: slice

    @property
    def sizes(self) -> tuple[int, int]:
        return self.queries.stop - self.queries.start, self.keys.stop - self.keys.start


def divided(
    q: Tensor, k: Tensor, lengths: Lengths | None, padding: Padding | None, cu_seqlens: Lengths | None
) -> list[Piece]:
    """The sequences of a call, as ``attention`` takes them.

    Raises
    ------
    ValueError
        Where ``padded`` or ``packed`` do, or both are asked for, or neither.
    """
    if cu_seqlens is None:
        if lengths is None:
            raise ValueError(f"padding={padding!r} needs lengths: the valid keys of each row.")
        return padded(lengths, padding, q, k)
    if lengths is not None or padding is not None:
        raise ValueError("cu_seqlens packs sequences without padding: pass it alone, or lengths and padding.")
    return packed(cu_seqlens, q, k)


def padded(lengths: Lengths, padding: Padding | None, q: Tensor, k: Tensor) -> list[Piece]:
    """The sequences of a padded batch: ``lengths[b]`` valid keys behind or before the padding of row ``b``.

    Right padding with fewer queries than keys: those at positions below the length are valid.

    Raises
    ------
    ValueError
        Unless there is a whole number in 0 ... Lk for every row of the batch, and ``padding`` is a side.
    """
    batch, len_q, len_k = q.shape[0], q.shape[2], k.shape[2]
    if padding not in PADDINGS:
        raise ValueError(f"lengths need padding='left' or 'right', the end of a row without valid keys; got {padding}.")
    given = _whole_numbers("lengths", lengths)
    if len(given) != batch or not all(0 <= length <= len_k for length in given):
        raise ValueError(f"lengths {_shown(given)}: needs one of 0 to {len_k} keys for each of {batch} rows.")
    pieces = []
    for row, length in enumerate(given):
        if padding == "left":
            queries, keys = slice(len_q - min(len_q, length), len_q), slice(len_k - length, len_k)
        else:
            queries, keys = slice(0, max(0, length - (len_k - len_q))), slice(0, length)
        pieces.append(Piece(row, queries, keys))
    return pieces


def packed(cu_seqlens: Lengths, q: Tensor, k: Tensor) -> list[Piece]:
    """The sequences of one packed row: number i is ``cu_seqlens[i]`` to ``cu_seqlens[i + 1]``.

    Raises
    ------
    ValueError
        Unless the batch is 1, there are as many queries as keys, and the boundaries rise from 0 to Lk.
    """
    len_q, len_k = q.shape[2], k.shape[2]
    if q.shape[0] != 1 or len_q != len_k:
        raise ValueError(
            f"cu_seqlens packs sequences into one row with as many queries as keys; got batch {q.shape[0]}, {len_q} "
            f"queries, {len_k} keys. Use lengths for padded rows."
        )
    ends = _whole_numbers("cu_seqlens", cu_seqlens)
    if not ends or ends[0] != 0 or ends[-1] != len_k or sorted(ends) != ends:
        raise ValueError(f"cu_seqlens {_shown(ends)} must rise from 0 to the {len_k} keys.")
    spans = [slice(start, stop) for start, stop in itertools.pairwise(ends)]
    return [Piece(0, span, span) for span in spans]


@outside_graphs
def one_call_each(
    call: Callable[..., Any], q: Tensor, k: Tensor, v: Tensor, pieces: Sequence[Piece], params: Mapping[str, Any]
) -> Any:
    """``call(q, k, v, **params)`` for every piece: one tensor [B, Hq, Lq, ...] or several, zeros where no piece is.

    A second tensor, the log-sum-exp, is minus infinity there. Parameters that are tensors like q are cut like q.
    """
    groups: dict[tuple[int, int], list[Piece]] = {}
    for piece in pieces:
        if min(piece.sizes):
            groups.setdefault(piece.sizes, []).append(piece)
    if not groups:  # the shapes of the results, of a call without rows
        groups[q.shape[2], k.shape[2]] = []
    whole: list[Tensor] = []
    for group in groups.values():
        rows = [piece.row for piece in group]
        queries, keys = [piece.queries for piece in group], [piece.keys for piece in group]
        own = {name: _cut_like_q(name, value, q, rows, queries) for name, value in params.items()}
        result = call(_gather(q, rows, queries), _gather(k, rows, keys), _gather(v, rows, keys), **own)
        parts = result if isinstance(result, tuple) else (result,)
        if not whole:
            shape = (q.shape[0], *parts[0].shape[1:2], q.shape[2])
            empty = (0.0, -torch.inf)
            whole = [
                x.new_full((*shape, *x.shape[3:]), fill) for x, fill in zip(parts, empty, strict=False)
            ]  # fmt: skip
        for x, part in zip(whole, parts, strict=True):
            for i, piece in enumerate(group):
                x[piece.row, :, piece.queries] = part[i]
    return tuple(whole) if isinstance(result, tuple) else whole[0]


def _gather(x: Tensor, rows: Sequence[int], spans: Sequence[slice]) -> Tensor:
    """``x[rows[i], :, spans[i]]`` of [B, H, L, D] along a batch, the spans being of one length; a view if possible."""
    if list(rows) == list(range(x.shape[0])) and len({span.start for span in spans}) == 1:
        return x[:, :, spans[0]]
    if len(rows) == 1:
        return x[rows[0], None, :, spans[0]]
    return torch.stack([x[row, :, span] for row, span in zip(rows, spans, strict=True)]) if rows else x[:0]


def _cut_like_q(name: str, value: Any, q: Tensor, rows: Sequence[int], spans: Sequence[slice]) -> Any:
    """A parameter for the sequences of a group."""
    if not isinstance(value, Tensor) or value.ndim != 4:
        return value
    if (value.shape[0], value.shape[2]) != (q.shape[0], q.shape[2]):
        raise ValueError(
            f"{name} {list(value.shape)} cannot be divided into sequences: it needs q's batch {q.shape[0]} and length "
            f"{q.shape[2]}. Call once per sequence."
        )
    return _gather(value, rows, spans)


def _whole_numbers(name: str, given: Lengths) -> list[int]:
    """``given`` as a list. Raises ``ValueError`` unless it is one row of whole numbers."""
    try:
        numbers = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:  # of no tensor: text, None, numbers beyond int64
        raise ValueError(f"{name} is {str(given)[:80]}: one row of whole numbers is needed.") from error
    if numbers.ndim != 1 or (numbers.numel() and (numbers.is_floating_point() or numbers.dtype == torch.bool)):
        raise ValueError(f"{name} is {numbers.dtype} {list(numbers.shape)}: one row of int32 or int64 is needed.")
    listed: list[int] = [int(x) for x in numbers.tolist()]
    return listed


def _shown(numbers: Sequence[int]) -> str:
    """A few numbers for an error message."""
    return str(list(numbers)) if len(numbers) <= 8 else f"[{', '.join(map(str, numbers[:8]))}, ...]"
