"""The picture of a run over a set: accuracy and fidelity over the logarithm of the counted share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...report.figure import Panel, panels
from .points import FULL

_SHEETS = (
    ("accuracy", "accuracy", ("ci_low", "ci_high")),
    ("top1_agree", "same first token as the whole model", None),
    ("evidence_recall", "evidence kept", ("evidence_low", "evidence_high")),
    ("attn_mass", "attention kept", None),
)
_MOST = 3
"""Panels side by side."""


def draw(path: Path, rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """A line for each method, a pale band for its 95 % interval; what nobody measured is left out.

    Parameters
    ----------
    path : Path
    rows : sequence of mapping
        Of ``table.point_row``.
    title : str
    """
    whole = next((row for row in rows if row["method"] == FULL), None)
    methods = list(dict.fromkeys(row["method"] for row in rows if row["method"] != FULL))
    ticks = sorted({1.0, *(row["r_requested"] for row in rows)})
    sheets = []
    for name, ylabel, interval in _SHEETS:
        points: dict[str, tuple[list[float], list[float]]] = {}
        bands: dict[str, tuple[list[float], list[float], list[float]]] = {}
        for method in methods:
            own = sorted(
                (row for row in rows if row["method"] == method and math.isfinite(row[name])),
                key=lambda row: row["r_counted"],
            )
            if whole is not None and math.isfinite(whole[name]):
                own.append(whole)
            if not own or own == [whole]:
                continue
            xs = [row["r_counted"] for row in own]
            points[method] = xs, [row[name] for row in own]
            if interval is not None:
                bands[method] = xs, [row[interval[0]] for row in own], [row[interval[1]] for row in own]
        if points:
            label = "visual tokens kept, mean over layers"
            sheets.append(Panel(points, {}, label, ylabel, "", logx=True, bands=bands, xticks=ticks))
    if sheets:
        panels(sheets[:_MOST], path, title=title)
