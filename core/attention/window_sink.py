"""Sliding window and attention sinks: each query sees the last ``window`` keys and the first few of all.

Paper: StreamingLLM, arXiv 2309.17453 (ICLR 2024), its pattern over the positions of one pass: the rolling cache of the
paper, which renumbers positions, belongs to the model that calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..choose import Formulation, in_torch
from .blocks.selection import ENGINE
from .blocks.selection import attend as attend_pattern
from .blocks.tiles import Spans
from .contract import Cost, Operator, Shape
from .dense import OPERATOR as DENSE
from .dense import first_and_latest
from .equations import masked_attention, positions


def visible(rows: Tensor, cols: Tensor, window: int, num_sinks: int) -> Tensor:
    """Which keys a query sees: the last ``window`` up to itself, and the first ``num_sinks``. [R], [N] -> [R, N]."""
    rows = rows[:, None]
    return (cols <= rows) & ((cols > rows - window) | (cols < num_sinks))


@dataclass(frozen=True, slots=True)
class Settings:
    """Which keys a query sees.

    Parameters
    ----------
    window : int, keys
        The last ``window`` keys a query sees, itself among them.
    num_sinks : int, keys
        The first keys of the sequence, which every query sees besides.

    Raises
    ------
    ValueError
        If ``window`` is less than 1 or ``num_sinks`` less than 0.
    """

    window: int = 1024
    num_sinks: int = 4

    def __post_init__(self) -> None:
        if self.window < 1 or self.num_sinks < 0:
            raise ValueError(
                f"window {self.window} must be at least 1 (the query itself) and num_sinks {self.num_sinks} at least 0."
            )


def reference(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = True, scale: float | None = None, settings: Settings
) -> Tensor:
    """Softmax attention under the mask ``visible``."""
    rows, cols = positions(q.shape[2], k.shape[2], q.device), torch.arange(k.shape[2], device=q.device)
    return masked_attention(q, k, v, visible(rows, cols, settings.window, settings.num_sinks), scale=scale)


def query_block(window: int) -> int:
    """Queries of a tile: a quarter of the window, so that at most a fifth of the scores are computed for nothing."""
    return min(512, max(32, window // 4))


@dataclass(frozen=True)
class BandSelection:
    """The keys of every query by rule, without lists; a pattern of the block engine."""

    batch: int
    num_heads: int
    len_q: int
    len_k: int
    window: int
    num_sinks: int
    block_m: int
    tile_keys: ClassVar[int | None] = None
    causal: ClassVar[bool] = True
    searched: ClassVar[int] = 0

    def spans(self, head: int, block: int) -> Spans:
        """The sinks, and from the first key that the block's first query sees to the last query itself."""
        first, last = self._ends(np.array([block]))
        start = int(first[0])
        sinks = min(self.num_sinks, start)
        ends = [[0, sinks], [start, int(last[0]) + 1]]
        return np.array(ends[not sinks :], dtype=np.int64)

    def lists(self) -> None:
        """A rule, without lists."""

    def _ends(self, block: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """First key of the window of each block's first query, position of its last query."""
        offset = self.len_k - self.len_q
        start = np.maximum(block * self.block_m + offset - self.window + 1, 0)
        return start, np.minimum((block + 1) * self.block_m, self.len_q) + offset - 1

    @property
    def useful(self) -> int:
        """Query-key pairs attended to."""
        seen = np.arange(self.len_k - self.len_q, self.len_k) + 1
        pairs = np.minimum(seen, self.window) + np.clip(seen - self.window, 0, self.num_sinks)
        return self.batch * self.num_heads * int(pairs.sum())

    @property
    def executed(self) -> int:
        """Query-key pairs whose score is computed."""
        block = np.arange(-(-self.len_q // self.block_m))
        start, last = self._ends(block)
        rows = np.minimum(self.len_q - block * self.block_m, self.block_m)
        keys = last + 1 - start + np.minimum(start, self.num_sinks)
        return self.batch * self.num_heads * int((rows * keys).sum())

    def mask(self, rows: Tensor) -> Tensor:
        """bool [B, Hq, R, Lk]."""
        keep = visible(
            rows + self.len_k - self.len_q, torch.arange(self.len_k, device=rows.device), self.window, self.num_sinks
        )
        return keep.expand(self.batch, self.num_heads, -1, -1)


def select(
    q: Tensor, k: Tensor, *, causal: bool = True, scale: float | None = None, settings: Settings
) -> BandSelection:
    """The pattern for these sizes; nothing is searched."""
    return pattern(q.shape[0], q.shape[1], q.shape[2], k.shape[2], settings)


def pattern(batch: int, num_heads: int, len_q: int, len_k: int, settings: Settings) -> BandSelection:
    """The keys of every query, from sizes alone."""
    window = settings.window
    return BandSelection(batch, num_heads, len_q, len_k, window, settings.num_sinks, query_block(window))


def attend(
    q: Tensor, k: Tensor, v: Tensor, selection: BandSelection, *, causal: bool = True, scale: float | None = None,
    settings: Settings, engine: Formulation, return_lse: bool = False,
) -> Any:  # fmt: skip
    """Softmax attention over the selection: linear time and memory; differentiable."""
    out, lse = attend_pattern(q, k, v, selection, scale, engine)
    return (out, lse) if return_lse else out


ATTEND = ENGINE.used_by("window+sink", attend)


def fused(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = True,
    scale: float | None = None,
    settings: Settings,
    backend: str,
) -> Tensor:
    """Both phases; a single query sees all the keys it is given, once for the query heads that share them."""
    given: dict[str, Any] = {"causal": True, "scale": scale, "backend": backend}
    if q.shape[2] == 1:
        return DENSE.blocked(
            q, *first_and_latest(k, v, settings.num_sinks, max(0, k.shape[2] - settings.window)), **given
        )
    chosen = select(q, k, scale=scale, settings=settings)
    out: Tensor = ATTEND(q, k, v, chosen, settings=settings, **given)
    return out


def cost(shape: Shape, *, settings: Settings) -> Cost:
    """Scores and products of the executed pairs; keys and values once per query block that sees them."""
    keys = pattern(shape.batch, shape.num_heads, shape.len_q, shape.len_k, settings)
    width = shape.head_dim + shape.value_dim
    queries = shape.batch * shape.num_heads * shape.len_q
    moved = width * (queries + keys.executed / keys.block_m) * shape.itemsize
    return Cost(2.0 * width * keys.executed, moved, 0.0, keys.useful / max(1, queries))


def at_budget(keys: int, shape: Shape) -> dict[str, Any]:
    """Four sinks, the window for the rest."""
    sinks = min(4, max(0, keys - 1))
    return {"window": max(1, keys - sinks), "num_sinks": sinks}


OPERATOR = Operator(
    settings=Settings,
    reference=reference,
    phases=(in_torch("window+sink", select), ATTEND),
    fused=fused,
    cost=cost,
    at_budget=at_budget,
    causal=(True,),
    differentiable=True,
    returns_lse=True,
    small={"window": 32},
)
