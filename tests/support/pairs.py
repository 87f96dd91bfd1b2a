"""All-pairs instead of full products: every two values of two axes meet in some row, in a fraction of the rows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product
from typing import Any


def pairs(*axes: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Rows with one value of each axis, the same on every run: next is the one with most pairs that have not met."""

    def met(row: tuple[int, ...]) -> set[tuple[tuple[int, int], tuple[int, int]]]:
        return set(combinations(enumerate(row), 2))

    rows = list(product(*map(range, map(len, axes))))
    left = set().union(*map(met, rows))
    chosen = []
    while left:
        chosen.append(max(rows, key=lambda row: len(met(row) & left)))
        left -= met(chosen[-1])
    return [tuple(axis[at] for axis, at in zip(axes, row, strict=True)) for row in sorted(chosen)]
