"""What a terminal shows of a run: a few columns of each measurement, the fits, and the machine in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..report.model import Item
from ..sizes import show_size
from .result import Measurement


def overview(items: Sequence[Item]) -> list[dict[str, Any]]:
    """The columns of a terminal; reports have all of them."""
    return [_columns(item) for item in items]


def _columns(item: Item) -> dict[str, Any]:
    m = item.metrics
    if not isinstance(item, Measurement) or "median_ms" not in m:
        status = item.error if item.status == "skipped" else item.status  # why it failed stands on stderr
        return {"operator": getattr(item, "label", item.input), "seq": _size(item), "status": status}
    return {
        "operator": item.label,
        "seq": _size(item),
        "inputs": item.source,
        "median ms": significant(m["median_ms"]),
        "x dense": significant(m.get("speedup")),
        "GFLOP/s": significant(m["gflops_useful"]),
        "ceiling": f"{100 * m['ceiling_share']:.0f}%" if "ceiling_share" in m else None,
        "keys": round(m["keys_searched"] + m["keys_attended"]),
        "peak MiB": significant(m["peak_bytes"] / 2**20) if "peak_bytes" in m else None,
        "recall": share(m.get("mass_recall")),
        "p5": share(m.get("mass_recall_p5")),
        "oracle": share(m.get("oracle_recall")),
        "window": share(m.get("window_recall")),
        "needle": share(m.get("needle_hit")),
        "rel. error": f"{m['relative_error']:.1e}" if "relative_error" in m else None,
        "status": "noisy" if item.noisy and item.status == "ok" else item.status,
    }


def _size(item: Item) -> str:
    return show_size(int(item.metrics["seq_len"])) if "seq_len" in item.metrics else ""


def significant(value: float | None) -> str | None:
    """Three significant digits."""
    if value is None:
        return None
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def share(value: float | None) -> str | None:
    """Three decimals."""
    return None if value is None else f"{value:.3f}"


def short_fits(fits: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of ``fit_table`` as a terminal shows them."""
    return [
        {
            "operator": fit["operator"], "inputs": fit["inputs"], "lengths": fit["lengths"],
            "exponent": f"{fit['exponent']:.2f}",
            "95 %": f"{fit['low']:.2f} - {fit['high']:.2f}" if fit["low"] == fit["low"] else None,
            "between neighbours": fit["local"],
            "faster than dense from": f"{fit['crossover']} ({fit['crossover_from']})" if fit.get("crossover") else None,
        }
        for fit in fits
    ]  # fmt: skip


def machine_line(machine: Mapping[str, Any], ceilings: Mapping[str, float]) -> str:
    """``AMD EPYC (avx2 avx512 torch=AVX512), 2 threads, torch 2.13; ceilings: ...``."""
    peaks = ", ".join(f"{name.replace('_', ' ')} {value:.0f}" for name, value in ceilings.items())
    processor = f"{machine['cpu']} ({machine['cpu_flags']})"
    return f"{processor}, {machine['threads']} threads, torch {machine['torch']}; ceilings: {peaks}"
