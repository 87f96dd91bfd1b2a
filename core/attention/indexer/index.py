"""An index of keys: what the flat and the hierarchical search prepare, and how they search it.

Specification: methods/hisa.md, sections 3.2 (flat) and 3.3 (hierarchical). Query t sees the tokens ks[t] <= s < ke[t],
and the indices found are relative to ks[t].
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..tokens.top_k import top_k_positions
from .module import Quant, index_scores
from .pool import CoarseDtype, IncrementalPool, block_scores, candidate_blocks, quantise_means
from .products_cpu import Floats, Ints, KeyBlocks
from .search_cpu import BestTokens

_CHUNK = 1 << 22  # scores, or gathered key entries, held at a time
_TILE = 128  # keys of a kernel's tile where the method asks for no block


class ChunkSearch(Protocol):
    """One thread's memory for a chunk of queries of an index, and the search in it by the CPU kernels."""

    @property
    def fine(self) -> BestTokens:
        """Whose candidate blocks the chosen tokens stand in."""
        ...

    def find(
        self, q: Tensor, weights: Tensor, ks: Tensor, ke: Tensor, out: Ints, *, values: Floats | None = None
    ) -> None:
        """As ``BestTokens.find``, without ``blocks``."""
        ...


class TokenIndex(Protocol):
    """Keys prepared for searching; reading ``blocks`` prepares them for the kernels too, for any number of queries.

    ``top_k`` tokens of ``k`` [T, d] are chosen at most among ``slots``.
    """

    k: Tensor
    top_k: int

    @property
    def slots(self) -> int: ...
    @property
    def blocks(self) -> object: ...
    def chunk(self, rows: int, heads: int) -> ChunkSearch: ...
    def grow(self, k: Tensor) -> None:
        """Take in what ``k`` [T, d] has behind the keys that are known, a few."""
        ...

    def in_torch(self, q: Tensor, weights: Tensor, ks: Tensor, ke: Tensor) -> Tensor:
        """Tokens int32 [M, top_k], ascending, -1 at the end, of q [M, H, d], weights [M, H], windows int [M]."""
        ...


class FlatIndex:
    """Section 3.2: the score of every visible token, then the top k. ``k`` [T, d].

    ``signed``: by the products of one head themselves, as the oracle wants it; by the kernels only.
    """

    def __init__(self, k: Tensor, *, top_k: int, signed: bool = False) -> None:
        self.k, self.top_k, self.signed = k, min(top_k, k.shape[0]), signed
        self._top_k = top_k

    @property
    def slots(self) -> int:
        """As in ``TokenIndex``."""
        return self.k.shape[0]

    def grow(self, k: Tensor) -> None:
        """As in ``TokenIndex``."""
        self.blocks.append(k[self.k.shape[0] :])
        self.k, self.top_k = k, min(self._top_k, k.shape[0])

    @cached_property
    def blocks(self) -> KeyBlocks:
        """The keys as the kernels want them."""
        return KeyBlocks(self.k, _TILE)

    def chunk(self, rows: int, heads: int) -> ChunkSearch:
        """As in ``TokenIndex``."""
        return _FlatSearch(BestTokens(self.blocks, rows=rows, heads=heads, signed=self.signed))

    def in_torch(self, q: Tensor, weights: Tensor, ks: Tensor, ke: Tensor) -> Tensor:
        """As in ``TokenIndex``."""
        position = torch.arange(self.k.shape[0], device=q.device)
        blocks = []
        for rows in _chunks(q.shape[0], q.shape[1] * self.k.shape[0]):
            dense = index_scores(q[rows], self.k, weights[rows])  # [m, T]
            hidden = (position < ks[rows, None]) | (position >= ke[rows, None])
            blocks.append(_relative(top_k_positions(dense.masked_fill_(hidden, -torch.inf), self.top_k), ks[rows]))
        return _stack(blocks, q, self.top_k)


@dataclass(frozen=True)
class _FlatSearch:
    fine: BestTokens

    def find(
        self, q: Tensor, weights: Tensor, ks: Tensor, ke: Tensor, out: Ints, *, values: Floats | None = None
    ) -> None:
        self.fine.find(q, weights, ks, ke, out, values=values)


class HisaIndex:
    """Section 3.3: candidate blocks by their pooled key, then the top k tokens inside them. ``k`` [T, d]."""

    def __init__(
        self, k: Tensor, *, top_k: int, block_size: int, top_blocks: int, coarse_dtype: CoarseDtype, quant: Quant
    ) -> None:
        self.block_size, self.coarse_dtype, self._quant = block_size, coarse_dtype, quant
        self._most, self._pool = (top_k, top_blocks), IncrementalPool(k, block_size)
        self._take(k)

    def _take(self, k: Tensor) -> None:
        """Keys that ``_pool`` knows: what follows from them."""
        self.k, self.top_k = k, min(self._most[0], k.shape[0])
        self.pooled = quantise_means(self._pool.mean, self._quant).keys  # [nb, d]
        self.top_blocks = min(self._most[1], self.pooled.shape[0])

    def grow(self, k: Tensor) -> None:
        """As in ``TokenIndex``; of the pooled keys only the last change."""
        keys, new = self.blocks[0], k[self.k.shape[0] :]
        keys.append(new)
        self._pool.append(new)
        self._take(k)
        self.blocks = keys, KeyBlocks(self.pooled, _TILE)

    @property
    def slots(self) -> int:
        """As in ``TokenIndex``."""
        return self.top_blocks * self.block_size

    @cached_property
    def blocks(self) -> tuple[KeyBlocks, KeyBlocks]:
        """Keys and pooled keys as the kernels want them."""
        return KeyBlocks(self.k, self.block_size), KeyBlocks(self.pooled, _TILE)

    def chunk(self, rows: int, heads: int) -> ChunkSearch:
        """As in ``TokenIndex``."""
        keys, pooled = self.blocks
        fine = BestTokens(keys, rows=rows, heads=heads, width=self.top_blocks)
        return _HisaSearch(self, BestTokens(pooled, rows=rows, heads=heads, force=True), fine)

    def candidates(self, q: Tensor, weights: Tensor, ks: Tensor, ke: Tensor) -> Tensor:
        """Steps 2-5 in plain torch: blocks int32 [m, top_blocks], ascending, -1 at the end."""
        coarse = block_scores(
            q, self.pooled, weights, ks, ke, block_size=self.block_size, coarse_dtype=self.coarse_dtype
        )
        return candidate_blocks(coarse, self.top_blocks)

    def in_torch(self, q: Tensor, weights: Tensor, ks: Tensor, ke: Tensor) -> Tensor:
        """As in ``TokenIndex``."""
        num_tokens, size = self.k.shape[0], self.block_size
        lists = []
        for rows in _chunks(q.shape[0], self.slots * self.k.shape[1]):
            lo, hi = ks[rows, None], ke[rows, None]
            blocks = self.candidates(q[rows], weights[rows], ks[rows], ke[rows]).long()  # [m, slots / size]
            token = (blocks[..., None] * size + torch.arange(size, device=q.device)).flatten(1)  # [m, slots]
            outside = (token < lo) | (token >= hi) | (blocks < 0).repeat_interleave(size, 1)
            keys = self.k[token.clamp(0, num_tokens - 1)]  # [m, slots, d]
            fine = index_scores(q[rows, None], keys, weights[rows, None]).squeeze(-2)  # [m, slots]
            slot = top_k_positions(fine.masked_fill_(outside, -torch.inf), self.top_k).long()
            chosen = token.gather(1, slot.clamp_min(0)).masked_fill(slot < 0, -1)  # slots ascend, so tokens do
            lists.append(_relative(chosen.to(torch.int32), ks[rows]))
        return _stack(lists, q, self.top_k)


@dataclass(frozen=True)
class _HisaSearch:
    index: HisaIndex
    coarse: BestTokens
    fine: BestTokens

    def find(
        self, q: Tensor, weights: Tensor, ks: Tensor, ke: Tensor, out: Ints, *, values: Floats | None = None
    ) -> None:
        """The pooled keys are searched as tokens are."""
        if self.index.coarse_dtype == "fp32":
            size = self.index.block_size
            blocks = np.empty((q.shape[0], self.index.top_blocks), np.int32)
            self.coarse.find(q, weights, ks // size, -(-ke // size), blocks, relative=False)
        else:
            blocks = self.index.candidates(q, weights, ks, ke).numpy()
        self.fine.find(q, weights, ks, ke, out, blocks=blocks, values=values)


def _chunks(rows: int, entries: int) -> Iterator[slice]:
    """Slices of ``range(rows)``, each with few enough rows of ``entries`` numbers."""
    step = max(1, _CHUNK // max(1, entries))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def _relative(index: Tensor, ks: Tensor) -> Tensor:
    """Token indices [m, K] from the start of each query's own window; -1 stays."""
    return torch.where(index >= 0, index - ks[:, None].to(index.dtype), -1)


def _stack(blocks: list[Tensor], q: Tensor, width: int) -> Tensor:
    """The chunks' rows, or none."""
    return torch.cat(blocks) if blocks else torch.empty(0, width, dtype=torch.int32, device=q.device)
