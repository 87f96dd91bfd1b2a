"""How far the filters of one model lie from those of another: before and after training.

Specification: methods/filter-design.md, section 8 (``--compare``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import InputError
from ...text import one_line
from .read import ModelFilters, matches


@dataclass(frozen=True, slots=True)
class Change:
    """Of the filters of one layer.

    Parameters
    ----------
    layer : str
    cosine : Tensor, shape (O,)
        Of each filter with itself before; NaN where one of the two is 0.
    moved : Tensor, shape (O,)
        |after - before|.
    relative : Tensor, shape (O,)
        The same over |before|; NaN where that is 0.
    """

    layer: str
    cosine: Tensor
    moved: Tensor
    relative: Tensor

    def row(self) -> dict[str, float | str]:
        """Means over the filters that have a value, and the least cosine."""
        known = self.cosine[~self.cosine.isnan()]
        return {
            "layer": self.layer, "filters": len(self.moved), "cosine": float(self.cosine.nanmean()),
            "least_cosine": float(known.min()) if len(known) else math.nan, "moved": float(self.moved.mean()),
            "moved_relative": float(self.relative.nanmean()),
        }  # fmt: skip


def change(layer: str, before: Tensor, after: Tensor) -> Change:
    """Of filters [O, C, *kernel] of one shape."""
    a, b = (filters.detach().to("cpu", torch.float64).flatten(1) for filters in (before, after))
    first, second, moved = a.norm(dim=1), b.norm(dim=1), (b - a).norm(dim=1)
    product = first * second
    cosine = torch.where(product > 0, (a * b).sum(1) / product, math.nan)
    return Change(layer, cosine, moved, torch.where(first > 0, moved / first, math.nan))


def changes(
    before: ModelFilters, after: ModelFilters, name: str, other: str, patterns: Sequence[str] = ()
) -> tuple[list[Change], tuple[str, ...]]:
    """Of all layers that both have under one name with one shape, and what is told of the others.

    What ``patterns`` leave out, and layers with NaN or infinite weights, which are listed anyway, are not told of.

    Raises
    ------
    InputError
        If there is no such layer.
    """
    earlier = {bank.name: bank for bank in before.banks if matches(bank.name, patterns)}
    sick = {str(row["layer"]) for row in (*before.sick, *after.sick)}
    found: list[Change] = []
    alone: list[str] = []
    unlike: list[str] = []
    ill: list[str] = []
    for bank in after.banks:
        old = earlier.get(bank.name)
        if old is None:
            (ill if bank.name in sick else alone).append(one_line(bank.name))
        elif old.filters.shape != bank.filters.shape:
            unlike.append(f"{one_line(bank.name)} ({list(old.filters.shape)} and {list(bank.filters.shape)})")
        else:
            found.append(change(bank.name, old.filters, bank.filters))
    later = {bank.name for bank in after.banks} | sick
    missing = [one_line(key) for key in earlier if key not in later]
    if not found:
        what = f"shares no layer of one name and shape with {other}"
        if unlike:
            what += f": {unlike[0]}"
        elif alone and missing:
            what += f": it has {alone[0]}, the other {missing[0]}"
        raise InputError(name, what, "Compare two states of one network")
    told = []
    for names, why in (
        (alone, f"not in {other}"), (missing, f"only in {other}"), (unlike, f"of another shape in {other}"),
        (ill, f"with NaN or infinite weights in {other}"),
    ):  # fmt: skip
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            told.append(f"layers {why}, not compared: {', '.join(names[:3])}{more}")
    return found, tuple(told)
