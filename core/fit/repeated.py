"""What the same training came to on several seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any


def means(rows: Sequence[Mapping[str, Any]], names: Iterable[str]) -> dict[str, float]:
    """Means of columns, each followed by its standard deviation as ``NAME_std`` where there are several rows.

    Parameters
    ----------
    rows : sequence of mapping
        One for each seed, at least one.
    names : iterable of str
        Columns of numbers.
    """
    found: dict[str, float] = {}
    for name in names:
        values = [row[name] for row in rows]
        found |= {name: fmean(values)} | ({f"{name}_std": stdev(values)} if len(values) > 1 else {})
    return found
