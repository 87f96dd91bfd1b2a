"""The picture of a run: time and memory against length with fitted lines, recall against the keys visited."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from os import PathLike
from typing import Any

from ..report.figure import Panel, panels
from ..sizes import show_size
from . import scaling
from .result import Measurement

Curves = dict[str, tuple[list[float], list[float]]]


def draw(path: str | PathLike[str], items: Sequence[Measurement]) -> None:
    """Draw what ``items`` hold: curves over length where there are several, recall where it was measured, else times.

    Raises
    ------
    UsageError
        If ``path`` ends in neither ``.png`` nor ``.svg``.
    """
    done = [item for item in items if item.status == "ok"]
    sheets = []
    if len({item.metrics["seq_len"] for item in done}) > 1:
        times = _curves(done, "seq_len", "median_ms", 1e-3)
        sheets.append(Panel(times, _fitted(times), "sequence length", "seconds", "time, and fitted powers", True, True))
        if memory := _curves(done, "seq_len", "peak_bytes", 2.0**-20):
            sheets.append(Panel(memory, {}, "sequence length", "MiB above the inputs", "peak memory", True, True))
    recalled = [item for item in done if "mass_recall" in item.metrics]
    if recalled:
        largest = max(item.metrics["seq_len"] for item in recalled)
        recalled = [item for item in recalled if item.metrics["seq_len"] == largest]
        points: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for item in recalled:
            keys = item.metrics["keys_searched"] + item.metrics["keys_attended"]
            points[item.operator].append((keys, item.metrics["mass_recall"]))
        title = f"recall at {show_size(int(largest))}"
        sheets.append(Panel(_columns(points), {}, "keys visited per query", "attention mass kept", title, True, False))
    if not sheets:
        sheets.append(Panel(_curves(done, "seq_len", "median_ms", 1e-3), {}, "sequence length", "seconds", "time"))
    panels(sheets, path, title="attn bench")


def _curves(items: Sequence[Measurement], x: str, y: str, factor: float) -> Curves:
    points: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for item in items:
        if item.metrics.get(y, 0.0) > 0:
            points[item.label].append((item.metrics[x], factor * item.metrics[y]))
    return _columns(points)


def _columns(points: dict[str, list[tuple[float, float]]]) -> Curves:
    return {name: tuple(map(list, zip(*sorted(pairs), strict=True))) for name, pairs in points.items()}  # type: ignore[misc]


def _fitted(times: Curves) -> dict[str, Any]:
    lines = {}
    for name, (lengths, seconds) in times.items():
        fit = scaling.fit([int(n) for n in lengths], seconds)
        if fit is not None:
            lines[name] = (lengths, [fit.seconds(n) for n in lengths])
    return lines
