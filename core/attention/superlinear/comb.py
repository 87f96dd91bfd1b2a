"""Superlinear attention, sections 3.1, 3.2 and 3.4: the comb of anchors, spans around anchors, keys to search among."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..equations import accumulator, positions
from .spans_cpu import groups

UPSCALED_POWER = 0.54
"""The search power of ``preset="upscaled"``, section 3.7: about L^0.54 anchors."""


@dataclass(frozen=True)
class Comb:
    """Sections 3.1 and 3.2, steps 3-4, as tables.

    Parameters
    ----------
    steps : int64 [S]
        F(w + 1), F(w + 2), .. up to the number of keys: the anchors of the query at c are c + 1 - steps, nearest first.
    window : int
        Number of keys before the first anchor, the query's own included.
    backward, forward : int64 [Lq]
        Length of the spans of a query before and after their anchor; t = c + 1.
    """

    steps: Tensor
    window: int
    backward: Tensor
    forward: Tensor


@functools.lru_cache(maxsize=16)
@torch.inference_mode(False)  # what is kept must serve every mode
def comb(
    len_q: int, len_k: int, sw_index: int, inv_search_power_int: int, search_power: float | None, span_power: float,
    backward_factor: float, forward_factor: float, device: torch.device | None = None,
) -> Comb:  # fmt: skip
    """The tables for the last ``len_q`` of ``len_k`` positions; F(i) = floor(i^(1/p)) in float64 (pitfall 2)."""
    inverse = inv_search_power_int if search_power is None else 1.0 / search_power
    if float(inverse).is_integer():
        inverse = int(inverse)
    count = 1
    while int((sw_index + count) ** inverse) <= len_k:
        count += 1
    steps = torch.tensor([int((sw_index + i) ** inverse) for i in range(1, count)], dtype=torch.int64, device=device)
    t = np.arange(len_k - len_q + 1, len_k + 1, dtype=np.float64)
    root = np.sqrt(t) if span_power == 0.5 else t**span_power  # a square root is exact at perfect squares
    backward, forward = (
        torch.from_numpy(np.ceil(f * root).astype(np.int64)).to(device) for f in (backward_factor, forward_factor)
    )
    return Comb(steps, int((sw_index + 1) ** inverse) - 1, backward, forward)


def spans_of(anchors: Tensor, tables: Comb, len_k: int) -> tuple[Tensor, Tensor]:
    """Steps 3 and 4. anchors int [.., Lq, k] -> start, stop, int32, same shape; stop is exclusive."""
    here = positions(anchors.shape[-2], len_k, anchors.device)[:, None]
    start = (anchors - tables.backward[:, None]).clamp_min(0)
    last = torch.minimum(anchors + tables.forward[:, None], here)
    if tables.window:
        last = torch.minimum(last, (here - tables.window + 1).clamp_min(0) - 1)
    missing = anchors < 0
    return start.masked_fill(missing, 0).to(torch.int32), (last + 1).masked_fill(missing, 0).to(torch.int32)


def accumulated(k: Tensor, accumulate: str | None) -> Tensor:
    """Section 3.4, [our decision]: keys that summarise their past, y_t = beta y_(t-1) + (1 - beta) k_t, y_(-1) = 0.

    ``accumulate`` "ema:beta": k [B, Hkv, Lk, D] -> the same shape, softmax dtype. None: ``k`` as it is.
    """
    if accumulate is None:
        return k
    kind, _, number = accumulate.partition(":")
    try:
        beta = float(number)
    except ValueError:
        beta = math.nan
    if kind != "ema" or not 0 <= beta < 1:
        raise ValueError(f"accumulate is 'ema:beta' with 0 <= beta < 1, such as 'ema:0.9'; got {accumulate!r}.")
    k = k.to(accumulator(k.dtype))
    block = 64  # inside a block one small triangular product, between blocks only the last row
    at = torch.arange(block, device=k.device)
    lag = at[:, None] - at
    decay = ((1 - beta) * beta ** lag.clamp_min(0).to(k.dtype)).tril()
    carry, parts = k.new_zeros(k.shape[0], k.shape[1], 1, k.shape[3]), []
    for first in range(0, k.shape[2], block):
        part = k[:, :, first : first + block]
        n = part.shape[2]
        power = beta ** torch.arange(1, n + 1, dtype=k.dtype, device=k.device)[:, None]
        parts.append(decay[:n, :n] @ part + power * carry)
        carry = parts[-1][:, :, -1:]
    return torch.cat(parts, 2) if parts else k


@dataclass(frozen=True)
class Spans:
    """What ``select`` found. ``useful``, ``executed``, ``searched`` and ``mask`` as in ``contract.Selection``.

    Parameters
    ----------
    anchors, start, stop : int32 [B, Hq, Lq, num_spans]
        Best first. A span is the keys start .. stop - 1; a missing one has anchor -1 and start = stop = 0.
    scores : Tensor [B, Hq, Lq, num_spans], float32 or float64
        q_search . k of the anchors; -inf for a missing one.
    window : int
        Every query also attends to the last ``window`` keys up to its own.
    len_k : int
    searched : int
        Anchors scored in all.
    """

    anchors: Tensor
    scores: Tensor
    start: Tensor
    stop: Tensor
    window: int
    len_k: int
    searched: int

    @property
    def _here(self) -> Tensor:
        """Positions of the queries: int64 [Lq]."""
        return positions(self.start.shape[2], self.len_k, self.start.device)

    @property
    def window_start(self) -> Tensor:
        """int64 [Lq]; the window of a query ends with its own position."""
        return (self._here - self.window + 1).clamp_min(0)

    @property
    def useful(self) -> int:
        """Distinct pairs: the union of the spans of a query, and its window, which no span enters."""
        start, order = self.start.sort(-1)
        stop = self.stop.gather(-1, order)
        before = torch.cat([torch.zeros_like(stop[..., :1]), stop.cummax(-1).values[..., :-1]], -1)
        spans = (stop - torch.maximum(start, before)).clamp_min(0).sum()
        own = (self._here + 1 - self.window_start).sum() if self.window else 0
        return int(spans) + int(own) * self.start.shape[0] * self.start.shape[1]

    @property
    def executed(self) -> int:
        """Pairs in the tiles of ``attend``: rows times the union of their spans."""
        total = 0
        window = self.window_start.to(torch.int32).cpu().numpy()
        for start, stop in zip(self.start.flatten(0, 1).cpu(), self.stop.flatten(0, 1).cpu(), strict=True):
            plan = groups(start.numpy(), stop.numpy(), window, self.len_k)
            total += int(((plan.edges[:, 1] - plan.edges[:, 0]) * (plan.edges[:, 3] - plan.edges[:, 2])).sum())
        return total

    def mask(self, rows: Tensor) -> Tensor:
        """bool [B, Hq, R, Lk]: what the queries ``rows`` (int64 [R]) attend to."""
        rows = rows.to(self.start.device)
        key, here = torch.arange(self.len_k, device=rows.device), self._here[rows, None]
        near = (key <= here) & (key > here - self.window)  # [R, Lk]
        start, stop = self.start[:, :, rows, :, None], self.stop[:, :, rows, :, None]
        return near | ((key >= start) & (key < stop)).any(-2)
