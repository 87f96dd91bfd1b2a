"""Sparsifiner's selection: a list of keys for every query that has a prediction, and what the lists are made of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..tokens.attend import TokenSelection
from ..tokens.top_k import top_k_positions
from .predictor import Rules, sparse_coefficients

ROWS = 256  # queries of one piece of work; fixed, so that results do not depend on the number of threads


@dataclass(frozen=True)
class SparsifinerSelection:
    """A ``Selection``: ``lists`` for queries that have a prediction; the class token's query, if any, sees all keys.

    ``lists.indices`` int32 [B, Hq, R, K], R = N - ``first_row``.
    """

    lists: TokenSelection
    first_row: int

    @property
    def useful(self) -> int:
        """Distinct pairs attended to, over batch, heads and queries."""
        batch, heads = self.lists.indices.shape[:2]
        return self.lists.useful + batch * heads * self.first_row * self.lists.len_k

    @property
    def executed(self) -> int:
        """Pairs whose score is computed: there is no padding."""
        return self.useful

    @property
    def searched(self) -> int:
        """Reduced queries times pooled keys. The guess at all N keys that follows reads no key."""
        return self.lists.searched

    def mask(self, rows: Tensor) -> Tensor:
        """bool [B, Hq, R, Lk]: what the queries ``rows`` (int64 [R]) attend to."""
        if not self.lists.indices.shape[2]:
            return torch.ones(
                *self.lists.indices.shape[:2], len(rows), self.lists.len_k, dtype=torch.bool, device=rows.device
            )
        mask = self.lists.mask((rows - self.first_row).clamp_min(0))
        return mask | (rows < self.first_row)[:, None].to(mask.device)


@dataclass(frozen=True)
class ReducedOperands:
    """What the choice of keys needs: ``query`` [B, H, R, c] (scaled), ``pooled`` [B, H, c, n], ``basis`` [n, N].

    ``budget``: keys of a query.
    """

    rules: Rules
    budget: int
    query: Tensor
    pooled: Tensor
    basis: Tensor

    @property
    def topk(self) -> int:
        """Basis vectors of a query's prediction."""
        return min(self.rules.topk_coef, self.basis.shape[0])

    def pieces(self) -> list[tuple[int, int, int]]:
        """(batch entry, head, first row) of all pieces of work."""
        batch, heads, rows, _ = self.query.shape
        return [(b, h, start) for b in range(batch) for h in range(heads) for start in range(0, rows, ROWS)]

    def no_lists(self) -> Tensor:
        """Memory for the lists: int32 [B, H, R, K]."""
        return torch.empty(*self.query.shape[:3], self.budget, dtype=torch.int32, device=self.query.device)

    def selection(self, lists: Tensor) -> SparsifinerSelection:
        """Of the lists that were chosen."""
        batch, heads, rows, _ = self.query.shape
        searched = batch * heads * rows * self.basis.shape[0]
        return SparsifinerSelection(
            TokenSelection(lists, heads, self.basis.shape[1], searched), self.rules.first_row
        )  # fmt: skip


def lists(operands: ReducedOperands) -> Tensor:
    """Steps 3-7: the keys of every query, int32 [B, H, R, K], ascending."""
    index = operands.no_lists()
    for b, h, start in operands.pieces():
        coef = (operands.query[b, h, start : start + ROWS] @ operands.pooled[b, h]).softmax(-1)
        guess = sparse_coefficients(coef, operands.rules) @ operands.basis
        index[b, h, start : start + ROWS] = top_k_positions(guess, operands.budget)
    return index
