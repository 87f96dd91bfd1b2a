"""HiP: the parameters, and what follows from them and the sizes alone. Specification: methods/hip.md, 3.1 and 4."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Representative = Literal["first", "center", "random"]


@dataclass(frozen=True, slots=True)
class Settings:
    """The parameters of HiP.

    Parameters
    ----------
    mask_k : int, keys
        Budget of chosen keys. Larger finds more of the attention's mass, in proportionally more time. Rounded up, with
        a warning, to a multiple of ``block_size_k * block_size_k_group``.
    block_size_q : int, queries: power of two up to 128
        Queries that share one search. Smaller finds better keys and searches more often.
    block_size_k : int, keys: 1, 2, 4, 8 or 16
        Neighbouring keys chosen together. Smaller chooses more finely, with more rounds of search.
    block_size_k_group : int, keys: 1, 2, 4 or 8
        Above 1 the search sees the minimum and maximum of so many keys instead of the keys.
    sliding_window, sink : int, keys
        Last keys, counted from the end of the query block, and first keys, that every query sees.
    representative : {"first", "center", "random"}
        Which of a node's units is scored in its place.
    query_stride, query_offset : int, queries
        The search uses rows offset, offset + stride, ... of a block.
    dense_queries : int
        Query blocks that begin before this position see all their keys.
    mask_refresh : int, decode steps: 1 to 64
        How long a decoder keeps its choice; a single call has nothing to keep.
    seed : int
        Of ``representative="random"``.

    Raises
    ------
    ValueError
        If a parameter is out of range; the message names the range.

    References
    ----------
    methods/hip.md, sections 3.1-3.4 and 4; arXiv 2406.09827.
    """

    mask_k: int = 512
    block_size_q: int = 32
    block_size_k: int = 2
    block_size_k_group: int = 1
    sliding_window: int = 128
    sink: int = 32
    representative: Representative = "first"
    query_stride: int = 2
    query_offset: int = 1
    dense_queries: int = 0
    mask_refresh: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in (
            ("block_size_q", (1, 2, 4, 8, 16, 32, 64, 128)),
            ("block_size_k", (1, 2, 4, 8, 16)),
            ("block_size_k_group", (1, 2, 4, 8)),
            ("representative", ("first", "center", "random")),
            ("query_stride", (1, 2, 3, 4)),
            ("query_offset", tuple(range(self.query_stride))),
        ):
            if getattr(self, name) not in allowed:
                choices = ", ".join(str(a) for a in allowed)
                raise ValueError(f"hip: {name} is {getattr(self, name)!r}; choose one of {choices}.")
        for name, least in (("mask_k", 1), ("sliding_window", 0), ("sink", 0), ("dense_queries", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"hip: {name} is {getattr(self, name)}; it must be at least {least}.")
        if not 1 <= self.mask_refresh <= 64:
            raise ValueError(f"hip: mask_refresh is {self.mask_refresh}; choose 1 to 64 decode steps.")
        if self.mask_k % self.span:
            warnings.warn(
                f"hip: mask_k={self.mask_k} is rounded up to {self.num_nodes * self.span}, the next multiple of "
                f"block_size_k * block_size_k_group = {self.span}.",
                stacklevel=4,
            )

    @property
    def span(self) -> int:
        """Keys in a selected unit."""
        return self.block_size_k * self.block_size_k_group

    @property
    def num_nodes(self) -> int:
        """K: nodes of the tree that are kept, which end as selected units."""
        return -(-self.mask_k // self.span)

    @property
    def per_unit(self) -> int:
        """Vectors scored per unit: its keys, or the minimum and the maximum of each of its groups of keys."""
        return self.block_size_k * (2 if self.block_size_k_group > 1 else 1)


@dataclass(frozen=True, slots=True)
class Layout:
    """The query blocks of one call. Decode (one query): the heads of a group are the rows of one block."""

    settings: Settings
    len_q: int
    len_k: int

    @property
    def block_m(self) -> int:
        """Queries in a block."""
        return 1 if self.len_q == 1 else self.settings.block_size_q

    @property
    def num_blocks(self) -> int:
        return -(-self.len_q // self.block_m)

    @property
    def first(self) -> Tensor:
        """Position of each block's first query: int64 [nB]."""
        return torch.arange(self.num_blocks) * self.block_m + (self.len_k - self.len_q)

    @property
    def end(self) -> Tensor:
        """P: one past the position of each block's last query: int64 [nB]."""
        return (self.first + self.block_m).clamp(max=self.len_k)

    @property
    def units(self) -> Tensor:
        """Units in each block's search region, all that the window does not cover: int64 [nB], ascending."""
        group, unit = self.settings.block_size_k_group, self.settings.block_size_k
        region = (self.end // group - self.settings.sliding_window // group).clamp(min=0)
        return (region + unit - 1) // unit

    @property
    def num_dense(self) -> int:
        """Leading blocks that attend to every key: those that begin below position ``dense_queries``."""
        return int((self.first < self.settings.dense_queries).sum())

    @property
    def num_simple(self) -> int:
        """Leading blocks without a search: dense, or with no more units than are kept."""
        return max(self.num_dense, int((self.units <= self.settings.num_nodes).sum()))

    @property
    def width(self) -> int:
        """Largest number of units that a block selects."""
        return min(self.settings.num_nodes, int(self.units.max())) if self.num_blocks else 0

    @property
    def count(self) -> Tensor:
        """Units that each block selects: int64 [nB]."""
        return self.units.clamp(max=self.settings.num_nodes)

    def search_rows(self) -> Tensor:
        """Queries whose scores steer each block's search: int64 [nB, R]; short blocks repeat their first."""
        stride, offset = self.settings.query_stride, self.settings.query_offset
        rows = torch.arange(0 if self.block_m <= offset else offset, self.block_m, stride)
        table = torch.arange(self.num_blocks)[:, None] * self.block_m + rows
        size = self.len_q - (self.num_blocks - 1) * self.block_m  # of the last block, where some rows may not exist
        fill = table[-1, 0] if size > rows[0] else (self.num_blocks - 1) * self.block_m
        table[-1] = torch.where(table[-1] < self.len_q, table[-1], fill)
        return table

    @property
    def rounds(self) -> Tensor:
        """How often K nodes are halved until each is one unit: int [nB], ceil(log2(units / K))."""
        largest = -(-self.units // self.settings.num_nodes)  # units in the largest of the first nodes
        return torch.frexp((largest - 1).clamp(min=0).double()).exponent  # the exponent of n - 1 is ceil(log2 n)


def pick(settings: Settings, start: Tensor, size: Tensor, step: int, block: Tensor) -> Tensor:
    """Units that stand for the nodes ``start .. start + size - 1``: int64, the shape of ``start``.

    Random ones come from a hash of (seed, round, query block, start): the same whatever the order of evaluation.
    """
    if settings.representative == "first":
        return start
    if settings.representative == "center":
        return start + size // 2
    x = (start * 0x9E3779B1 + block * 0x85EBCA6B + step * 0xC2B2AE35 + settings.seed) & 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    x = ((x ^ (x >> 15)) * 0x2C1B3C6D) & 0xFFFFFFFF
    return start + (x ^ (x >> 16)) % size.clamp(min=1)


def positive_scale(q: Tensor, scale: float | None) -> float:
    """The factor on q.k. Raises ``ValueError`` unless it is positive."""
    if scale is not None and not scale > 0:
        raise ValueError(f"hip: scale is {scale}; the search ranks keys by their score, so it must be positive.")
    return q.shape[3] ** -0.5 if scale is None else scale


def search_table(k: Tensor, settings: Settings) -> Tensor:
    """The vectors that a search compares with the queries: k itself, or each group's minimum and maximum.

    [B, Hkv, Lk, D] -> [B, Hkv, T, D] with T = Lk, or 2 floor(Lk / G): keys after the last whole group are not searched.
    """
    group = settings.block_size_k_group
    if group == 1:
        return k
    batch, heads, length, dim = k.shape
    grouped = k[:, :, : length // group * group].reshape(batch, heads, length // group, group, dim)
    return torch.stack([grouped.amin(3), grouped.amax(3)], 3).flatten(2, 3)
