"""From trials to the report: one item an operator and length, tables, what a terminal shows, the picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from os import PathLike
from typing import Any

from ...report.figure import Panel, panels
from ...report.model import Item
from ...report.sections import Section, Table
from ...sizes import show_bytes, show_size
from ..machine import median
from ..options import BenchOptions
from ..result import Measurement
from ..terminal import share, significant
from .layers import layer_rows, show_layers
from .trial import Trial

EDGES = (1, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
"""Positions between which perplexity is told apart."""


def item(trial: Trial, options: BenchOptions) -> Measurement:
    """One line of the report."""
    name = f"{trial.label} @ {show_size(trial.length)}"
    about = {
        "operator": trial.candidate.name, "label": trial.label, "params": dict(trial.candidate.params),
        "dense_layers": options.inside.dense_layers,
    }  # fmt: skip
    base = {"seq_len": float(trial.length), "predicted_seconds": trial.predicted}
    warnings = tuple(trial.warnings)
    made = partial(Measurement, name, None, operator=trial.candidate.name, label=trial.label)
    if trial.skipped:
        error = f"skipped ({trial.skipped})"
        return made("skipped", 0.0, error=error, metrics=base, details=about, warnings=warnings)
    if trial.error:
        return made("failed", 0.0, error=trial.error, metrics=base, details=about, warnings=warnings)
    if noise := trial.prefill.noise or trial.decode.noise:
        warnings += (f"noisy: {noise}",)
    times = {
        "prefill_seconds": trial.prefill.median, "prefill_cpu_seconds": median(trial.prefill.cpu),
        "decode_ms": 1e3 * trial.decode.median, "decode_cpu_ms": 1e3 * median(trial.decode.cpu),
    }  # fmt: skip
    details = {**about, "wall_seconds": trial.prefill.wall, "decode_seconds": trial.decode.wall, "noisy": bool(noise)}
    seconds = sum(trial.prefill.wall) + sum(trial.decode.wall)
    metrics = {**base, **trial.metrics, **times}
    return made("ok", seconds, metrics=metrics, details=details, warnings=warnings, noisy=bool(noise))


def sections(trials: Sequence[Trial], depths: Sequence[float]) -> list[Section]:
    """Perplexity by position, needles by depth, and what ran in which layer."""
    done = [trial for trial in trials if trial.likelihood is not None and not trial.error]
    made = (
        Table("perplexity_by_position", _by_position(done), title="perplexity by position"),
        Table("needles_by_depth", _by_depth(done, depths), title="needles by depth (1: found)"),
        Table("ran", _ran(done), _ran_short(done), title="what ran in which layer"),
    )
    return [table for table in made if table.content]


def _by_position(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    rows = []
    for trial in trials:
        assert trial.likelihood is not None
        last = len(trial.likelihood.nll) + 1
        row: dict[str, Any] = {"operator": trial.label, "seq": show_size(trial.length)}
        for start, end in pairwise(EDGES):
            if start < last:
                row[f"{start}-{min(end, last) - 1}"] = trial.likelihood.perplexity(start, min(end, last))
        rows.append(row)
    return rows


def _by_depth(trials: Sequence[Trial], depths: Sequence[float]) -> list[dict[str, Any]]:
    return [
        {
            "operator": trial.label, "seq": show_size(trial.length),
            **{f"{depth:g} %": int(found) for depth, found in zip(depths, trial.found, strict=True)},
        }
        for trial in trials if trial.found
    ]  # fmt: skip


def _ran(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    return [
        {"operator": trial.label, "seq": show_size(trial.length), **row}
        for trial in trials
        for row in (layer_rows(trial.ran) or [_own(trial)])
    ]


def _own(trial: Trial) -> dict[str, Any]:
    """The row of the model as it is."""
    return {"phase": "all", "layers": show_layers(trial.layers), "ran": trial.label, "formulation": "transformers"}


def _ran_short(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Of a terminal: rows that are alike at all lengths once."""
    lengths: dict[tuple[Any, ...], list[str]] = {}
    for row in _ran(trials):
        rest = tuple((name, value) for name, value in row.items() if name != "seq")
        lengths.setdefault(rest, []).append(row["seq"])
    return [{**dict(rest), "seq": ",".join(seqs)} for rest, seqs in lengths.items()]


def overview(items: Sequence[Item]) -> list[dict[str, Any]]:
    """The columns of a terminal; reports have all of them."""
    return [_columns(item) for item in items]


def _columns(item: Item) -> dict[str, Any]:
    m = item.metrics
    seq = show_size(int(m["seq_len"])) if "seq_len" in m else ""
    label = item.label if isinstance(item, Measurement) else item.input
    if item.status != "ok" or not isinstance(item, Measurement):
        status = item.error if item.status == "skipped" else item.status  # why it failed stands on stderr
        return {"operator": label, "seq": seq, "status": status}
    return {
        "operator": label,
        "seq": seq,
        "perplexity": f"{m['perplexity']:.3f}",
        "same next": share(m.get("argmax_agreement")),
        "greedy": share(m.get("greedy_agreement")),
        "needles": f"{m['needle_accuracy'] * m['needles']:.0f}/{m['needles']:.0f}" if "needles" in m else None,
        "flat IoU": share(m.get("flat_iou")),
        "prefill s": significant(m["prefill_seconds"]),
        "prefill x": significant(m.get("prefill_speedup")),
        "decode ms": significant(m["decode_ms"]),
        "decode x": significant(m.get("decode_speedup")),
        "KV read": show_bytes(m["kv_bytes_read"]) if "kv_bytes_read" in m else None,
        "status": "noisy" if item.noisy else item.status,
    }


def draw(path: str | PathLike[str], trials: Sequence[Trial]) -> None:
    """Perplexity, prefill, decode and bytes against length. Raises ``UsageError`` unless it is .png or .svg."""
    charts: tuple[tuple[str, str, Callable[[Trial], float]], ...] = (
        ("perplexity", "perplexity", lambda trial: trial.metrics["perplexity"]),
        ("prefill", "seconds", lambda trial: trial.prefill.median),
        ("a further token", "ms", lambda trial: 1e3 * trial.decode.median),
        ("keys and values read for it", "MiB", lambda trial: trial.metrics.get("kv_bytes_read", 0.0) / 2**20),
    )
    done = [trial for trial in trials if trial.likelihood is not None and not trial.error]
    sheets = []
    for title, unit, of in charts:
        points: dict[str, tuple[list[float], list[float]]] = {}
        for trial in done:
            if (value := of(trial)) > 0:
                xs, ys = points.setdefault(trial.label, ([], []))
                xs.append(float(trial.length))
                ys.append(value)
        sheets.append(Panel(points, {}, "tokens", unit, title, True, title != "perplexity"))
    panels(sheets, path, title="attn bench --model")
