"""Flat and hierarchical search for the tokens with the best index scores.

Specification: methods/hisa.md, sections 3.2 (flat) and 3.3 (hierarchical). Queries and keys may be packed from several
sequences: query t sees the tokens ks[t] <= s < ke[t], and the indices found are relative to ks[t].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ...choose import Formulation, Phase
from ..equations import needs_cpu_floats
from ..tokens.top_k import top_k_positions
from .module import Quant, index_scores
from .pool import COARSE_DTYPES, CoarseDtype, block_scores, candidate_blocks, pool_blocks
from .search_cpu import LARGEST_BLOCK, BestTokens, Floats, Ints, KeyBlocks, chunk_rows, in_chunks

_CHUNK = 1 << 22  # scores, or gathered key entries, held at a time
_TILE = 128  # keys of a kernel's tile where the method asks for no block
_FEW = 16


class Chunk(Protocol):
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

    ``top_k`` tokens are chosen at most among ``slots``.
    """

    top_k: int

    @property
    def slots(self) -> int: ...
    @property
    def blocks(self) -> object: ...
    def chunk(self, rows: int, heads: int) -> Chunk: ...

    def in_torch(self, q: Tensor, weights: Tensor, ks: Tensor, ke: Tensor) -> Tensor:
        """Tokens int32 [M, top_k], ascending, -1 at the end, of q [M, H, d], weights [M, H], windows int [M]."""
        ...


class FlatIndex:
    """Section 3.2: the score of every visible token, then the top k. ``k`` [T, d]."""

    def __init__(self, k: Tensor, *, top_k: int) -> None:
        self.k, self.top_k = k, min(top_k, k.shape[0])

    @property
    def slots(self) -> int:
        """As in ``TokenIndex``."""
        return self.k.shape[0]

    @cached_property
    def blocks(self) -> KeyBlocks:
        """The keys as the kernels want them."""
        return KeyBlocks(self.k, _TILE)

    def chunk(self, rows: int, heads: int) -> Chunk:
        """As in ``TokenIndex``."""
        return _FlatChunk(BestTokens(self.blocks, rows=rows, heads=heads))

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
class _FlatChunk:
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
        self.k, self.top_k, self.block_size = k, min(top_k, k.shape[0]), block_size
        self.coarse_dtype = coarse_dtype
        self.pooled = pool_blocks(k, block_size, quant=quant).keys  # [nb, d]
        self.top_blocks = min(top_blocks, self.pooled.shape[0])

    @property
    def slots(self) -> int:
        """As in ``TokenIndex``."""
        return self.top_blocks * self.block_size

    @cached_property
    def blocks(self) -> tuple[KeyBlocks, KeyBlocks]:
        """Keys and pooled keys as the kernels want them."""
        return KeyBlocks(self.k, self.block_size), KeyBlocks(self.pooled, _TILE)

    def chunk(self, rows: int, heads: int) -> Chunk:
        """As in ``TokenIndex``."""
        keys, pooled = self.blocks
        fine = BestTokens(keys, rows=rows, heads=heads, width=self.top_blocks)
        return _HisaChunk(self, BestTokens(pooled, rows=rows, heads=heads, force=True), fine)

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
class _HisaChunk:
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


def refuses(q: Tensor, *others: Any, **_: Any) -> str | None:
    """Why the kernels do not take an index's own operands, or attention's q [B, H, L, D].

    Few queries are not worth a rearranged copy of the keys, unless there is one.
    """
    own = q.ndim == 3
    rows = q.shape[0] if own else q.shape[2]
    if rows < _FEW and not (own and "blocks" in vars(others[1])):
        return needs_cpu_floats(q) or f"takes {_FEW} queries or more, not {rows}"
    return needs_cpu_floats(q)


def _by_kernels(
    q: Tensor, weights: Tensor, index: TokenIndex, ks: Tensor, ke: Tensor, into: Tensor | None = None
) -> Tensor:
    """Chunk by chunk, on all threads."""
    found = torch.empty(q.shape[0], index.top_k, dtype=torch.int32) if into is None else into
    rows, tokens = chunk_rows(index.slots * q.shape[1]), found.numpy()

    def make() -> Callable[[slice], None]:
        chunk = index.chunk(min(rows, q.shape[0]), q.shape[1])
        return lambda part: chunk.find(q[part], weights[part], ks[part], ke[part], tokens[part])

    in_chunks((ke - ks).clamp(0, index.slots), rows, make)
    return found


def _in_torch(
    q: Tensor, weights: Tensor, index: TokenIndex, ks: Tensor, ke: Tensor, into: Tensor | None = None
) -> Tensor:
    found = index.in_torch(q, weights, ks, ke)
    return found if into is None else into.copy_(found)


SEARCH = Phase(
    "index search",
    (
        Formulation("search, numba", "cpu", _by_kernels, refuses),
        Formulation("search, torch", "torch", _in_torch),
    ),
)
"""``search(q, weights, index, ks, ke, into=None) -> tokens`` int32 [M, K], into ``into`` if that is given."""


def lightning_index(
    q: Tensor, k: Tensor, weights: Tensor, *, top_k: int = 2048, ks: Tensor | None = None, ke: Tensor | None = None
) -> Tensor:
    """Select tokens with the flat lightning indexer: exact top k of every visible token's score.

    Parameters
    ----------
    q : Tensor [M, H, d]
        Index queries.
    k : Tensor [T, d]
        Index keys, scales applied.
    weights : Tensor [M, H]
        Head weights, scales of ``q`` and d^-0.5 folded in. May be negative.
    top_k : int
        Tokens per query.
    ks, ke : Tensor int [M], optional
        The window [ks, ke) of tokens each query sees. Default: causal, the queries being the last M of T positions.

    Returns
    -------
    Tensor int32 [M, min(top_k, T)]
        Relative to ``ks``, ascending; -1, at the end, where fewer tokens are visible. Equal scores: the smaller index.

    Raises
    ------
    ValueError
        If the tensors do not fit together.

    References
    ----------
    methods/hisa.md, section 3.2; DeepSeek-V3.2-Exp.
    """
    ks, ke = _windows(q, k, weights, ks, ke, top_k)
    found: Tensor = SEARCH(q, weights, FlatIndex(k, top_k=top_k), ks, ke)
    return found


def hisa_index(
    q: Tensor, k: Tensor, weights: Tensor, *, top_k: int = 2048, block_size: int = 128, top_blocks: int = 64,
    ks: Tensor | None = None, ke: Tensor | None = None, coarse_dtype: CoarseDtype = "fp32", quant: Quant = "none",
) -> Tensor:  # fmt: skip
    """Select tokens hierarchically: score pooled key blocks, then the tokens inside the best ones.

    Parameters
    ----------
    q, k, weights, top_k, ks, ke
        As for ``lightning_index``; take them from ``LightningIndexer`` for quantised operands.
    block_size : int
        Tokens per pooled key. Larger: a cheaper, blunter first pass.
    top_blocks : int
        Candidate blocks per query, at least 2: the first and the last one it sees are always among them.
    coarse_dtype : {"fp32", "bf16"}
        What block scores are compared in; the official kernels compare in bf16.
    quant : {"none", "fp8", "fp8-ue8m0"}
        Whether the pooled keys are rounded to e4m3.

    Returns
    -------
    Tensor int32 [M, min(top_k, T)], as ``lightning_index``. The same set where at most ``top_blocks`` are visible.

    Raises
    ------
    ValueError
        If the tensors do not fit together, or ``top_k`` exceeds ``top_blocks * block_size``.

    References
    ----------
    methods/hisa.md, section 3.3; arXiv 2603.28458.
    """
    ks, ke = _windows(q, k, weights, ks, ke, top_k)
    check_hisa(top_k, block_size, top_blocks, coarse_dtype)
    index = HisaIndex(
        k, top_k=top_k, block_size=block_size, top_blocks=top_blocks, coarse_dtype=coarse_dtype, quant=quant
    )
    found: Tensor = SEARCH(q, weights, index, ks, ke)
    return found


def check_hisa(top_k: int, block_size: int, top_blocks: int, coarse_dtype: str) -> None:
    """Raise ``ValueError`` for parameters out of range."""
    if not 1 <= block_size <= LARGEST_BLOCK:
        raise ValueError(f"block_size is {block_size}; pass 1 to {LARGEST_BLOCK} tokens.")
    if top_blocks < 2:
        raise ValueError(f"top_blocks is {top_blocks}; the first and the last block need one each: pass 2 or more.")
    if not 1 <= top_k <= top_blocks * block_size:
        raise ValueError(
            f"top_k is {top_k}, outside 1..{top_blocks * block_size}, which is top_blocks {top_blocks} x block_size "
            f"{block_size}. Lower top_k or raise top_blocks."
        )
    if coarse_dtype not in COARSE_DTYPES:
        raise ValueError(f"coarse_dtype is fp32 or bf16, not {coarse_dtype!r}.")


def _windows(
    q: Tensor, k: Tensor, weights: Tensor, ks: Tensor | None, ke: Tensor | None, top_k: int
) -> tuple[Tensor, Tensor]:
    """Check packed operands; the windows, causal by default. int64 [M] each."""
    shapes = f"Shapes q {list(q.shape)}, k {list(k.shape)}, weights {list(weights.shape)}."
    if q.ndim != 3 or k.ndim != 2 or weights.shape != q.shape[:2] or q.shape[2] != k.shape[1]:
        raise ValueError(f"The index needs q [M, H, d], k [T, d] and weights [M, H]. {shapes}")
    if top_k < 1:
        raise ValueError(f"top_k is {top_k}; choose at least one token.")
    num_queries, num_tokens = q.shape[0], k.shape[0]
    if ke is None and num_queries > num_tokens:
        raise ValueError(f"{num_queries} queries but {num_tokens} keys: pass the windows ks and ke. {shapes}")
    if ke is None:
        ke = torch.arange(num_tokens - num_queries, num_tokens, device=q.device) + 1
    if ks is None:
        ks = torch.zeros(num_queries, dtype=torch.int64, device=q.device)
    if ks.shape != (num_queries,) or ke.shape != (num_queries,):
        raise ValueError(f"ks {list(ks.shape)} and ke {list(ke.shape)} need one entry per query. {shapes}")
    if num_queries and (int(ks.min()) < 0 or int(ke.max()) > num_tokens):
        raise ValueError(f"The windows [ks, ke) leave the {num_tokens} tokens there are. {shapes}")
    return ks.long(), ke.long()


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
