"""Flat and hierarchical search for the tokens with the best index scores.

Specification: methods/hisa.md, sections 3.2 (flat) and 3.3 (hierarchical). Queries and keys may be packed from several
sequences: query t sees the tokens ks[t] <= s < ke[t], and the indices found are relative to ks[t].
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ...choose import Formulation, Phase
from ..equations import accumulator
from ..tokens.top_k import top_k_positions
from .module import Quant, index_scores
from .pool import COARSE_DTYPES, CoarseDtype, block_scores, candidate_blocks, pool_blocks
from .search_cpu import LARGEST_BLOCK, KeyBlocks, best_tokens

_CHUNK = 1 << 22  # scores, or gathered key entries, held at a time
_TILE = 128  # keys of a kernel's tile where the method asks for no block
_FEW = 16


class FoundTokens(NamedTuple):
    """Tokens int32 [M, K], ascending, -1 at the end; their scores float32 [M, K], where asked for and at hand.

    Fresh memory is slow on its first use, a microsecond for each page: 5 to 10 % of a search.
    """

    tokens: Tensor
    scores: Tensor | None


class TokenIndex(Protocol):
    """Keys prepared for searching; reading ``blocks`` prepares them for the kernels too, for any number of queries."""

    @property
    def blocks(self) -> object: ...

    def by_kernels(
        self, q: Tensor, weights: Tensor, ks: Tensor, ke: Tensor, into: FoundTokens | None = None
    ) -> FoundTokens:
        """q [M, H, d], weights [M, H], windows int [M]; ``into``: reusable memory for the result."""
        ...

    def in_torch(self, q: Tensor, weights: Tensor, ks: Tensor, ke: Tensor) -> FoundTokens:
        """The same in plain torch."""
        ...


class FlatIndex:
    """Section 3.2: the score of every visible token, then the top k. ``k`` [T, d]."""

    def __init__(self, k: Tensor, *, top_k: int) -> None:
        self.k, self.top_k = k, top_k

    @cached_property
    def blocks(self) -> KeyBlocks:
        """The keys as the kernels want them."""
        return KeyBlocks(self.k, _TILE)

    def by_kernels(
        self, q: Tensor, weights: Tensor, ks: Tensor, ke: Tensor, into: FoundTokens | None = None
    ) -> FoundTokens:
        """As in ``TokenIndex``."""
        into = into or FoundTokens(torch.empty(q.shape[0], min(self.top_k, self.k.shape[0]), dtype=torch.int32), None)
        best_tokens(q, weights, self.blocks, ks, ke, out=into.tokens, values=into.scores)
        return into

    def in_torch(self, q: Tensor, weights: Tensor, ks: Tensor, ke: Tensor) -> FoundTokens:
        """As in ``TokenIndex``."""
        position = torch.arange(self.k.shape[0], device=q.device)
        blocks = []
        for rows in _chunks(q.shape[0], q.shape[1] * self.k.shape[0]):
            dense = index_scores(q[rows], self.k, weights[rows])  # [m, T]
            hidden = (position < ks[rows, None]) | (position >= ke[rows, None])
            blocks.append(_relative(top_k_positions(dense.masked_fill_(hidden, -torch.inf), self.top_k), ks[rows]))
        return FoundTokens(_stack(blocks, q, min(self.top_k, self.k.shape[0])), None)


class HisaIndex:
    """Section 3.3: candidate blocks by their pooled key, then the top k tokens inside them. ``k`` [T, d]."""

    def __init__(
        self, k: Tensor, *, top_k: int, block_size: int, top_blocks: int, coarse_dtype: CoarseDtype, quant: Quant
    ) -> None:
        self.k, self.top_k, self.block_size, self.top_blocks = k, top_k, block_size, top_blocks
        self.coarse_dtype = coarse_dtype
        self.pooled = pool_blocks(k, block_size, quant=quant).keys  # [nb, d]

    @cached_property
    def blocks(self) -> tuple[KeyBlocks, KeyBlocks]:
        """Keys and pooled keys as the kernels want them."""
        return KeyBlocks(self.k, self.block_size), KeyBlocks(self.pooled, _TILE)

    def in_torch(self, q: Tensor, weights: Tensor, ks: Tensor, ke: Tensor) -> FoundTokens:
        """As in ``TokenIndex``."""
        num_tokens, size = self.k.shape[0], self.block_size
        slots = min(self.top_blocks, self.pooled.shape[0]) * size
        lists = []
        for rows in _chunks(q.shape[0], slots * self.k.shape[1]):
            lo, hi = ks[rows, None], ke[rows, None]
            coarse = block_scores(
                q[rows], self.pooled, weights[rows], ks[rows], ke[rows], block_size=size, coarse_dtype=self.coarse_dtype
            )
            blocks = candidate_blocks(coarse, self.top_blocks).long()  # [m, slots / size]
            token = (blocks[..., None] * size + torch.arange(size, device=q.device)).flatten(1)  # [m, slots]
            outside = (token < lo) | (token >= hi) | (blocks < 0).repeat_interleave(size, 1)
            keys = self.k[token.clamp(0, num_tokens - 1)]  # [m, slots, d]
            fine = index_scores(q[rows, None], keys, weights[rows, None]).squeeze(-2)  # [m, slots]
            slot = top_k_positions(fine.masked_fill_(outside, -torch.inf), min(self.top_k, num_tokens)).long()
            chosen = token.gather(1, slot.clamp_min(0)).masked_fill(slot < 0, -1)  # slots ascend, so tokens do
            lists.append(_relative(chosen.to(torch.int32), ks[rows]))
        return FoundTokens(_stack(lists, q, min(self.top_k, num_tokens)), None)

    def by_kernels(
        self, q: Tensor, weights: Tensor, ks: Tensor, ke: Tensor, into: FoundTokens | None = None
    ) -> FoundTokens:
        """As in ``TokenIndex``; the pooled keys are searched as tokens are."""
        keys, pooled = self.blocks
        first, last = ks // self.block_size, -(-ke // self.block_size)
        num_blocks = min(self.top_blocks, self.pooled.shape[0])
        if self.coarse_dtype == "fp32":
            blocks = torch.empty(q.shape[0], num_blocks, dtype=torch.int32)
            best_tokens(q, weights, pooled, first, last, out=blocks, relative=False, force=True)
        else:
            blocks = torch.cat([
                candidate_blocks(
                    block_scores(
                        q[rows], self.pooled, weights[rows], ks[rows], ke[rows], block_size=self.block_size,
                        coarse_dtype=self.coarse_dtype,
                    ),
                    num_blocks,
                )
                for rows in _chunks(q.shape[0], q.shape[1] * self.pooled.shape[0])
            ])  # fmt: skip
        into = into or FoundTokens(torch.empty(q.shape[0], min(self.top_k, self.k.shape[0]), dtype=torch.int32), None)
        best_tokens(q, weights, keys, ks, ke, out=into.tokens, blocks=blocks, values=into.scores)
        return into


def _refuses(q: Tensor, *others: Any, **_: Any) -> str | None:
    """Of an index's own operands, and of attention's q [B, H, L, D], whose index operands are converted.

    Few queries are not worth a rearranged copy of the keys, unless there is one.
    """
    own = q.ndim == 3
    dtype, rows = (q.dtype, q.shape[0]) if own else (accumulator(q.dtype), q.shape[2])
    if q.device.type != "cpu" or dtype != torch.float32:
        return f"takes float32 on the CPU, not {dtype} on {q.device}"
    return (
        None if rows >= _FEW or (own and "blocks" in vars(others[1])) else f"takes {_FEW} queries or more, not {rows}"
    )


def _by_kernels(
    q: Tensor, weights: Tensor, index: TokenIndex, ks: Tensor, ke: Tensor, into: FoundTokens | None = None
) -> FoundTokens:
    return index.by_kernels(q, weights, ks, ke, into)


def _in_torch(
    q: Tensor, weights: Tensor, index: TokenIndex, ks: Tensor, ke: Tensor, into: FoundTokens | None = None
) -> FoundTokens:
    return index.in_torch(q, weights, ks, ke)


SEARCH = Phase(
    "index search",
    (
        Formulation("search, numba", "cpu", _by_kernels, _refuses),
        Formulation("search, torch", "torch", _in_torch),
    ),
)
"""``search(q, weights, index, ks, ke, into=None) -> FoundTokens``; ``into`` may be left alone."""


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
    result: FoundTokens = SEARCH(q, weights, FlatIndex(k, top_k=top_k), ks, ke)
    return result.tokens


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
    result: FoundTokens = SEARCH(q, weights, index, ks, ke)
    return result.tokens


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
