"""Decode step by step: an index that grows with the cache. methods/hisa.md, section 3.3 (pooling) and 8."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..equations import accumulator, needs_cpu_floats
from ..tokens.attend import LISTS
from .index import TokenIndex
from .module import Quant, fake_quantise, head_weights
from .search import SEARCH


class IndexDecoder:
    """Search and attend for the newest query; a step adds the keys to the index that the cache has gained.

    Parameters
    ----------
    make_index : callable
        Of the index keys [T, d] of a head.
    rebuild_at : int
        Number of keys at which another kind of index begins.
    """

    def __init__(
        self, make_index: Callable[[Tensor], TokenIndex], *, scale: float | None, quant: Quant, top_k: int,
        rebuild_at: int = 0,
    ) -> None:  # fmt: skip
        self._make, self._scale, self._quant, self._top_k = make_index, scale, quant, top_k
        self._rebuild_at, self._length = rebuild_at, 0
        self._indices: list[list[TokenIndex]] = []

    def take(self, k: Tensor) -> None:
        """Prepare the keys [B, Hkv, Lk, D] of the cache for the search, those that are new."""
        again = not self._indices or self._length < self._rebuild_at <= k.shape[2]
        if again or needs_cpu_floats(k) is not None:  # plain torch searches the keys as they are
            self._indices = [[self._make(index_keys(head, self._quant)) for head in row] for row in k]
            if needs_cpu_floats(k) is None:
                for index in (index for row in self._indices for index in row):
                    _ = index.blocks
        else:
            for row, heads in zip(self._indices, k, strict=True):
                for index, head in zip(row, heads, strict=True):
                    index.grow(self._index_keys(index, head))
        self._length = k.shape[2]

    def _index_keys(self, index: TokenIndex, head: Tensor) -> Tensor:
        """All index keys [Lk, D] of a head: those that were rounded are not rounded again."""
        if self._quant == "none":
            return head
        return torch.cat([index.k, index_keys(head[index.k.shape[0] :], self._quant)])

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The query ``q`` [B, Hq, 1, D] against what ``take`` was given, and its values."""
        factor = q.shape[-1] ** -0.5 if self._scale is None else self._scale
        len_k, kv_heads = k.shape[2], k.shape[1]
        ks, ke = (torch.tensor([x], device=q.device) for x in (0, len_k))
        chosen = torch.empty(k.shape[0], kv_heads, 1, min(self._top_k, len_k), dtype=torch.int32, device=k.device)
        for b, row in enumerate(self._indices):
            for h, index in enumerate(row):
                SEARCH(*index_queries(q[b], h, kv_heads, self._quant), index, ks, ke, chosen[b, h])
        out: Tensor = LISTS(q, k, v, chosen, factor)
        return out

    def step(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The newest query ``q`` [B, Hq, 1, D] against the whole cache ``k``, ``v``, its own key included."""
        q, k, v = q.detach(), k.detach(), v.detach()  # the kernels want arrays; a decode step has no gradient
        self.take(k)
        return self.attend(q, k, v)


def index_keys(k: Tensor, quant: Quant) -> Tensor:
    """Index operands: as they are, or rounded in the dtype of their scores."""
    return k if quant == "none" else fake_quantise(k.to(accumulator(k.dtype)), quant)


def index_queries(q: Tensor, h: int, kv_heads: int, quant: Quant) -> tuple[Tensor, Tensor]:
    """From q [Hq, m, D]: index queries [m, g, D] of one key/value head, and their weights [m, g]."""
    group = q.shape[0] // kv_heads
    queries = index_keys(q[h * group : (h + 1) * group], quant).transpose(0, 1)  # [m, g, D]
    return queries, head_weights(queries)
