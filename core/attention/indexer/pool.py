"""Hierarchical indexing, first half: mean-pooled key blocks and which of them a query looks into.

Specification: methods/hisa.md, section 3.3, steps 1-5.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..equations import accumulator
from ..tokens.top_k import ranked, top_k_positions
from .module import QUANTS, Quant, index_scores, quantise_fp8

CoarseDtype = Literal["fp32", "bf16"]
COARSE_DTYPES = ("fp32", "bf16")


class PooledKeys(NamedTuple):
    """Step 1: block means [nb, d] and their e4m3 values and scales [nb, d] (without quantisation: the means and 1)."""

    mean: Tensor
    values: Tensor
    scale: Tensor

    @property
    def keys(self) -> Tensor:
        """[nb, d]: what the coarse score uses."""
        return self.values * self.scale


def quantise_means(mean: Tensor, quant: Quant) -> PooledKeys:
    """Second half of step 1; block scales are never rounded to powers of two."""
    if quant not in QUANTS:
        raise ValueError(f"quant is one of {', '.join(QUANTS)}, not {quant!r}.")
    if quant == "none":
        return PooledKeys(mean, mean, torch.ones_like(mean))
    return PooledKeys(mean, *quantise_fp8(mean, smallest=1e-10))


def pool_blocks(k: Tensor, block_size: int, *, quant: Quant = "none") -> PooledKeys:
    """Step 1: means of ``block_size`` consecutive keys, the last block of what there is.

    Blocks know neither sequences nor causality: a query's own block, which is always a candidate, holds later tokens.

    Parameters
    ----------
    k : Tensor [T, d]
        Index keys, scales applied.
    quant : {"none", "fp8", "fp8-ue8m0"}
        Whether the means are rounded to e4m3 again.
    """
    return quantise_means(IncrementalPool(k, block_size).mean, quant)


class IncrementalPool:
    """Block sums and counts that grow with the cache: appending a token changes the last block only.

    Parameters
    ----------
    k : Tensor [T, d]
        Keys so far; T may be 0.
    block_size : int
    """

    def __init__(self, k: Tensor, block_size: int) -> None:
        self.block_size = block_size
        self.length = 0
        self._sums = torch.zeros(0, k.shape[1], dtype=accumulator(k.dtype), device=k.device)  # [capacity, d]
        self.append(k)

    def append(self, k: Tensor) -> None:
        """Add keys [n, d] at the end."""
        stop = self.length + k.shape[0]
        num_blocks = -(-stop // self.block_size)
        if num_blocks > self._sums.shape[0]:  # double, so that n appended tokens cost O(n)
            grown = self._sums.new_zeros(max(num_blocks, 2 * self._sums.shape[0]), self._sums.shape[1])
            grown[: self._sums.shape[0]] = self._sums
            self._sums = grown
        head = min(k.shape[0], -self.length % self.block_size)  # fills the open block
        if head:
            self._sums[self.length // self.block_size] += k[:head].to(self._sums.dtype).sum(0)
        first = (self.length + head) // self.block_size
        whole = (k.shape[0] - head) // self.block_size
        middle = k[head : head + whole * self.block_size].to(self._sums.dtype)
        if whole:
            self._sums[first : first + whole] = middle.view(whole, self.block_size, -1).sum(1)
        tail = k[head + whole * self.block_size :]
        if tail.shape[0]:
            self._sums[first + whole] = tail.to(self._sums.dtype).sum(0)
        self.length = stop

    @property
    def mean(self) -> Tensor:
        """[ceil(T / block_size), d], float32 (float64 for such keys): sums divided by how many tokens there are."""
        num_blocks = -(-self.length // self.block_size)
        mean = self._sums[:num_blocks] / self.block_size
        if self.length % self.block_size:
            mean[-1] = self._sums[num_blocks - 1] / (self.length % self.block_size)
        return mean


def block_scores(
    q: Tensor, pooled: Tensor, weights: Tensor, ks: Tensor, ke: Tensor, *, block_size: int,
    coarse_dtype: CoarseDtype = "fp32",
) -> Tensor:  # fmt: skip
    """Steps 2-4: score of every key block, -inf outside a query's window, +inf at its first and last block.

    Parameters
    ----------
    q, pooled, weights : Tensor [M, H, d], [nb, d], [M, H]
    ks, ke : Tensor int [M]
        The window [ks, ke) of tokens that a query sees; may be empty.
    coarse_dtype : {"fp32", "bf16"}
        bf16 rounds the scores before they are compared, as the official kernels do.

    Returns
    -------
    Tensor [M, nb]
    """
    scores = index_scores(q, pooled, weights)  # [M, nb]
    if coarse_dtype == "bf16":
        scores = scores.bfloat16().to(scores.dtype)
    block = torch.arange(pooled.shape[0], device=q.device)
    first, last = (ks // block_size)[:, None], (-(-ke // block_size) - 1)[:, None]
    seen = (block >= first) & (block <= last) & (ke > ks)[:, None]
    # NaN counts as infinity (``tokens.top_k``), but nothing comes before the first and the last block
    scores = ranked(scores).clamp(max=torch.finfo(scores.dtype).max).masked_fill(~seen, -torch.inf)
    return scores.masked_fill(seen & ((block == first) | (block == last)), torch.inf)


def candidate_blocks(scores: Tensor, top_blocks: int) -> Tensor:
    """Step 5: the best blocks of each query, ascending; -1 for want of visible ones. int32 [M, min(top_blocks, nb)]."""
    return top_k_positions(scores, top_blocks)
