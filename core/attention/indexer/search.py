"""Flat and hierarchical search for the tokens with the best index scores.

Specification: methods/hisa.md, sections 3.2 (flat) and 3.3 (hierarchical). Queries and keys may be packed from several
sequences: query t sees the tokens ks[t] <= s < ke[t], and the indices found are relative to ks[t].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...choose import Formulation, Phase
from ..equations import needs_cpu_floats
from .index import FlatIndex, HisaIndex, TokenIndex
from .module import Quant
from .pool import COARSE_DTYPES, CoarseDtype
from .search_cpu import LARGEST_BLOCK, chunk_rows, in_chunks

_FEW = 16


def _refuses(q: Tensor, *others: Any, **_: Any) -> str | None:
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
        Formulation("search, numba", "cpu", _by_kernels, _refuses),
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
    if q.dtype != k.dtype:
        raise ValueError(f"q is {q.dtype} and k is {k.dtype}; pass one dtype.")
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
