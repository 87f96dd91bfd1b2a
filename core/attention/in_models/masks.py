"""What a model asks its layers to see, in few numbers: transformers' mask interface.

Transformers describes a mask by a function of positions and makes [B, 1, Lq, Lk] of it. The operators are causal by
themselves; of a mask they need to know which keys of a row are valid, and whether the model gives its layers a sliding
window. ``describe`` hands on that alone, one row per sequence, in a tensor that models pass through as any mask: it
has four dimensions, as those that transformers never looks into. A mask that is neither is handed on as it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...opaque import outside_graphs

_MARK = -2016  # in front of every row: no mask of booleans or numbers to add holds it
_ROWS = 512  # of a mask that are looked at together


class Visible(NamedTuple):
    """A sequence as the layers see it: its row of the batch, its valid keys [first, stop) of ``written``, its window.

    ``written``: keys up to the last query's own; a static cache holds empty ones behind them. ``window``: of the
    model's own sliding attention, 0 for none.
    """

    row: int
    first: int
    stop: int
    written: int
    window: int


def encoded(seen: Sequence[Visible], device: torch.device | str) -> Tensor:
    """int64 [N, 1, 3, 2]: what ``decoded`` reads.

    Of three queries and two keys there is no mask: what takes it for one gets an error of shapes, not a result.
    """
    rows = torch.tensor([[_MARK, *one] for one in seen], dtype=torch.int64, device=device)
    return rows.reshape(-1, 1, 3, 2)


def decoded(mask: Tensor) -> list[Visible] | None:
    """The sequences of a mask from ``describe``; None for any other mask."""
    if mask.dtype != torch.int64 or mask.ndim != 4 or mask.shape[1:] != (1, 3, 2):
        return None
    rows = mask.flatten(1).tolist()
    return [Visible(*row[1:]) for row in rows] if all(row[0] == _MARK for row in rows) else None


@outside_graphs
def describe(
    batch_size: int, q_length: int, kv_length: int, q_offset: Any = 0, kv_offset: int = 0,
    mask_function: Callable[..., Tensor] | None = None, attention_mask: Tensor | None = None,
    local_size: int | None = None, allow_is_causal_skip: bool = True, use_vmap: bool = False,
    device: torch.device | str = "cpu", **others: Any,
) -> Tensor:  # fmt: skip
    """A mask function of transformers' ``AttentionMaskInterface``: ``encoded`` sequences, or the mask itself.

    Parameters
    ----------
    batch_size, q_length, kv_length : int
    q_offset, kv_offset : int
        Positions of the first query and of the first key.
    mask_function : callable (batch, head, query, key) -> bool
        The pattern, over positions; without the padding.
    attention_mask : Tensor, bool [B, positions], optional
        False: padding.
    local_size : int, optional
        Size of a window or chunk.
    allow_is_causal_skip : bool
        False: there may be more in the pattern than its kind says.
    use_vmap : bool
        The pattern holds functions of the model's own.
    """
    from transformers import masking_utils

    asked: Callable[..., Any] = mask_function or masking_utils.causal_mask_function
    start, window = int(q_offset), local_size or 0
    written = min(kv_length, start + q_length - kv_offset)
    if not use_vmap and asked is not masking_utils.bidirectional_mask_function:
        pattern = _Pattern(asked, batch_size, start, q_length, kv_offset, written, device)
        valid = masking_utils.prepare_padding_mask(attention_mask, kv_length, kv_offset)
        valid = None if valid is None else valid[:, kv_offset : kv_offset + written].bool()
        spans = None  # of valid keys: row, first, stop
        if asked is masking_utils.causal_mask_function or pattern.is_band(window, whole=not allow_is_causal_skip):
            spans = _valid_keys(valid, batch_size, written)
        elif q_length == 1:
            seen = pattern.only_row()
            spans = _valid_keys(seen if valid is None else seen & valid, batch_size, written)
        elif valid is None or bool(valid.all()):
            spans = pattern.packed(window)
        if spans is not None:
            return encoded([Visible(*span, written, window) for span in spans], device)
    others["allow_is_bidirectional_skip"] = False  # no mask means causal to the layers
    full: Any = masking_utils.sdpa_mask(
        batch_size=batch_size, q_length=q_length, kv_length=kv_length, q_offset=q_offset, kv_offset=kv_offset,
        mask_function=asked, attention_mask=attention_mask, local_size=local_size, allow_is_causal_skip=False,
        use_vmap=use_vmap, device=device, **others,
    )  # fmt: skip
    whole: Tensor = full
    return whole


class _Pattern:
    """A mask function over the positions of a call: queries ``start`` ..., keys ``first`` ..."""

    def __init__(
        self, function: Callable[..., Tensor], batch: int, start: int, len_q: int, first: int, len_k: int, device: Any
    ) -> None:  # fmt: skip
        self.function, self.len_q, self.len_k = function, len_q, len_k
        self.rows = torch.arange(batch, device=device)[:, None, None, None]
        self.head = torch.zeros(1, 1, 1, 1, dtype=torch.int64, device=device)
        self.queries = torch.arange(start, start + len_q, device=device)[:, None]
        self.keys = torch.arange(first, first + len_k, device=device)

    def _sees(self, queries: Tensor, keys: Tensor) -> Tensor:
        """bool [B or 1, ...] for positions that broadcast."""
        return self.function(self.rows, self.head, queries[None, None], keys[None, None])[:, 0]

    def _is(self, begin: Tensor, window: int, *, last: int | None = None) -> bool:
        """Whether the (``last``) queries see the keys from ``begin`` [B or 1, Lq, 1] to themselves, in their window."""
        for at in range(0 if last is None else max(0, self.len_q - last), self.len_q, _ROWS):
            queries = self.queries[at : at + _ROWS]
            expected = (self.keys <= queries) & (self.keys >= begin[:, at : at + _ROWS])
            if window:
                expected = expected & (self.keys > queries - window)
            if bool((self._sees(queries, self.keys) != expected).any()):
                return False
        return True

    def is_band(self, window: int, *, whole: bool) -> bool:
        """Whether it is causal, within ``window`` keys unless that is 0.

        Not ``whole``: it is a band or chunks of that size, which two rows tell.
        """
        return self._is(self.queries.new_zeros(1, self.len_q, 1), window, last=None if whole else 2)

    def only_row(self) -> Tensor:
        """What the one query sees: bool [B, Lk]."""
        return self._sees(self.queries, self.keys)[:, 0].expand(self.rows.shape[0], -1)

    def packed(self, window: int) -> list[tuple[int, int, int]] | None:
        """Row, first and stop of causal sequences behind each other, also chunks; None where it is not that."""
        if self.len_q != self.len_k:
            return None
        before = self._sees(self.queries[1:], self.keys[:-1, None])[..., 0]  # does a query see the key before its own?
        joined = before.expand(self.rows.shape[0], -1)
        begin, spans = self.queries.new_zeros(joined.shape[0], self.len_q, 1), []
        for row, one in enumerate(joined):
            edges = [0, *((~one).nonzero()[:, 0] + 1).tolist(), self.len_q]
            for first, stop in itertools.pairwise(edges):
                begin[row, first:stop] = self.keys[first]
                spans.append((row, first, stop))
        return spans if self._is(begin, window) else None


def _valid_keys(valid: Tensor | None, batch: int, written: int) -> list[tuple[int, int, int]] | None:
    """Row, first and stop of the valid keys of each row; None where padding lies between valid keys."""
    if valid is None:
        return [(row, 0, written) for row in range(batch)]
    count = valid.sum(-1)
    first = valid.int().argmax(-1)  # the first of the largest
    stop = torch.where(count > 0, written - valid.flip(-1).int().argmax(-1), first)
    if bool((stop - first != count).any()):
        return None
    return list(zip(range(batch), first.tolist(), stop.tolist(), strict=True))
