"""The measures of all items of a report as one table each: noise file by file, inserts and edges averaged."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from ...report.model import Item
from ...report.sections import Row, Section, Table

NOISE, INSERTS, EDGES = "noise_power", "inserts", "edges"
"""Names of the sections, those of an item and those of all items."""
TITLES = {
    NOISE: "noise power",
    INSERTS: "inserts (one scan says d' to ± 1, N scans to ± 1 / √N)",
    EDGES: "edges (task transfer function, cycles/mm)",
}
PLACE = ("row", "column", "radius_mm")
"""What tells the discs of a phantom apart."""


def of_all(items: Iterable[Item]) -> Iterator[Section]:
    """The tables of a report, where its items have such sections."""
    items = list(items)
    noise = [{"input": item.input, **row} for item in items for row in _rows([item], NOISE)]
    if noise:
        yield Table(NOISE, noise, title=TITLES[NOISE])
    if inserts := averaged(_rows(items, INSERTS)):
        yield Table(INSERTS, inserts, [_short(row) for row in inserts], title=TITLES[INSERTS])
    if edges := averaged(_rows(items, EDGES)):
        yield Table(EDGES, edges, title=TITLES[EDGES])


def averaged(rows: Iterable[Row]) -> list[Row]:
    """The rows of each disc as one, in the order of the first: means, weighted by ``scans``, and their errors.

    What begins with ``error`` is a standard error; scans are independent. NaN in one of them is NaN in the mean.
    """
    discs: dict[tuple[float, ...], list[Row]] = {}
    for row in rows:
        discs.setdefault(tuple(row[name] for name in PLACE), []).append(row)
    return [_mean(same) for same in discs.values()]


def _mean(rows: list[Row]) -> Row:
    scans = sum(row["scans"] for row in rows)
    mean: dict[str, float] = {}
    for name in rows[0]:
        weighted = [row["scans"] * row[name] for row in rows]
        mean[name] = math.hypot(*weighted) / scans if name.startswith("error") else sum(weighted) / scans
    return {**mean, **{name: rows[0][name] for name in PLACE}, "scans": scans}


def _rows(items: Iterable[Item], name: str) -> list[Row]:
    return [row for item in items for section in item.sections if section.name == name for row in section.rows()]


def _short(row: Row) -> Row:
    """An insert as a terminal has room for it."""
    pairs: dict[str, str] = {}
    for what, name, unit in (("contrast, HU", "contrast", "_hu"), ("CNR", "cnr", ""), ("d'", "d_prime", "")):
        before, after = row[f"{name}_before{unit}"], row[f"{name}_after{unit}"]
        pairs[what] = f"{before:.3g} -> {after:.3g}" if math.isfinite(before + after) else ""
    start = {"radius, mm": row["radius_mm"], "true contrast, HU": row["contrast_truth_hu"]}
    return {**start, **pairs, "scans": row["scans"]}
