"""From what was measured to what is reported: one item a row, speed-ups over the baseline, fitted exponents.

Specification: methods/attention-bench.md, sections 6 and 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..attention.contract import Cost, Shape, shape_of
from ..report.model import Item
from ..sizes import show_size
from . import machine, scaling
from .candidates import BASELINE
from .inputs import AttentionInputs
from .measure import BACKWARD, Row, Setup


@dataclass(frozen=True, slots=True)
class Measurement(Item):
    """One line of the report, and what it is about.

    Parameters
    ----------
    operator, label : str
        Its name, and the name with what was set.
    source : str
        Of q, k and v.
    seed : int
    causal : bool or None
        None: not known, nothing was run.
    noisy, gate_failed : bool
        Its time varied too much; its result was wrong.
    """

    operator: str = ""
    label: str = ""
    source: str = ""
    seed: int = 0
    causal: bool | None = None
    noisy: bool = False
    gate_failed: bool = False


def item(row: Row, inputs: AttentionInputs, setup: Setup) -> Measurement:
    """One line of the report."""
    name = f"{row.label} @ {show_size(row.length)} {inputs.name}" + (
        f" seed {inputs.seed}" if setup.options.seeds > 1 else ""
    )
    about: dict[str, Any] = {
        "operator": row.candidate.name, "label": row.label, "causal": row.candidate.causal, "seed": inputs.seed,
    }  # fmt: skip
    details = {
        **about, "params": dict(row.candidate.params), "inputs": inputs.name, "wall_seconds": row.timing.wall,
        "cpu_seconds": row.timing.cpu,
    }  # fmt: skip
    about["source"] = inputs.name
    base = {"seq_len": float(row.length), "predicted_seconds": row.predicted or float("nan")}
    if row.skipped:
        why = f"skipped ({row.skipped})"
        return Measurement(name, None, "skipped", 0.0, error=why, metrics=base, details=details, **about)
    if row.timing.error is not None:
        text = " ".join(str(row.timing.error).split())
        return Measurement(name, None, "failed", 0.0, error=text, metrics=base, details=details, **about)
    if noise := row.timing.noise:
        row.warnings.append(f"noisy: {noise}")
    shape = shape_of(inputs.q, inputs.k, inputs.v, causal=row.candidate.causal, grid=setup.options.grid)
    cost = row.candidate.cost(shape)
    quality: dict[str, Any] = {"noisy": bool(row.timing.noise), "gate_failed": bool(row.gate)}
    return Measurement(
        name, None, "failed" if row.gate else "ok", sum(row.timing.wall), error=row.gate or None,
        metrics={**base, **_figures(row, shape, cost, setup), **row.metrics}, warnings=tuple(row.warnings),
        details={**details, **quality}, **about, **quality,
    )  # fmt: skip


def _figures(row: Row, shape: Shape, cost: Cost, setup: Setup) -> dict[str, float]:
    """Times, rates and counts of one row. Measured counts where the operator chose keys, else its predicted ones."""
    seconds, queries = row.timing.median, max(1, shape.batch * shape.num_heads * shape.len_q)
    pair = 2 * (shape.head_dim + shape.value_dim)
    useful = executed = cost.flops
    searched, attended = cost.searched, cost.attended
    if row.selection is not None:
        search = 2 * shape.head_dim * row.selection.searched
        useful, executed = pair * row.selection.useful + search, pair * row.selection.executed + search
        searched, attended = row.selection.searched / queries, row.selection.useful / queries
    factor = BACKWARD if setup.options.backward else 1.0
    # whichever type is faster: float16 is computed in float32 where the processor has no products for it
    peak = setup.peak
    vectors = shape.batch * (shape.num_heads * shape.len_q + shape.num_kv_heads * shape.len_k)
    # q, k, v read and the output written once: what is read again comes from a cache; decoding reads less than all
    compulsory = min(cost.bytes, vectors * (shape.head_dim + shape.value_dim) * shape.itemsize)
    traffic = setup.ceilings["copy_gb_s"] * 1e9 * useful / max(compulsory, 1)
    figures = {
        "median_ms": 1e3 * seconds,
        "min_ms": 1e3 * min(row.timing.wall),
        "max_ms": 1e3 * max(row.timing.wall),
        "cpu_ms": 1e3 * machine.median(row.timing.cpu),
        "runs": float(len(row.timing.wall)),
        "cold_ms": 1e3 * row.cold,
        "gflops_useful": factor * useful / seconds / 1e9,
        "gflops_executed": factor * executed / seconds / 1e9,
        "ceiling_share": factor * useful / seconds / min(peak, traffic),
        "memory_bound": float(traffic < peak),
        "bytes": cost.bytes,
        "keys_searched": searched,
        "keys_attended": attended,
        "density": attended * queries / max(shape.pairs, 1),
        **{f"{phase}_ms": 1e3 * time_ for phase, time_ in row.phases.items()},
    }
    if setup.options.mode == "decode" and row.candidate.operator.decoder is not None:
        del figures["ceiling_share"]  # a step may reuse an earlier search: its products were not all made in this time
    if row.backward:
        figures["backward_ms"] = 1e3 * machine.median(row.backward[-len(row.timing.wall) :])
    return figures


def add_speedups(items: Sequence[Measurement]) -> list[Measurement]:
    """Each item's ``speedup`` over the baseline of its own length, inputs, seed and causality, where that ran.

    ``efficiency``: executed FLOP/s as a share of the baseline's.
    """
    base = {_group(i): i.metrics for i in items if i.status == "ok" and i.operator == BASELINE}
    out = []
    for item in items:
        against = base.get(_group(item)) if "median_ms" in item.metrics else None
        if against is not None:
            more = {
                "speedup": against["median_ms"] / item.metrics["median_ms"],
                "efficiency": item.metrics["gflops_executed"] / against["gflops_executed"],
            }
            item = replace(item, metrics={**item.metrics, **more})
        out.append(item)
    return out


def _group(item: Measurement) -> tuple[Any, ...]:
    return item.metrics.get("seq_len"), item.source, item.seed, item.causal


def fit_table(items: Sequence[Measurement]) -> list[dict[str, Any]]:
    """Exponent, its interval and the crossover against the baseline, per operator and inputs; of two lengths or more.

    Several seeds of one length count with their median.
    """
    runs_of: dict[tuple[str, str, bool], dict[int, list[float]]] = {}
    names: dict[tuple[str, str, bool], str] = {}
    for item in items:
        if item.status == "ok":
            key = (item.label, item.source, bool(item.causal))
            names[key] = item.operator
            runs_of.setdefault(key, {}).setdefault(int(item.metrics["seq_len"]), []).append(item.metrics["median_ms"])
    series = {
        key: {n: machine.median(runs) / 1e3 for n, runs in sorted(points.items())} for key, points in runs_of.items()
    }
    base = {key[1:]: points for key, points in series.items() if names[key] == BASELINE}
    table = []
    for key, points in series.items():
        fit = scaling.fit(list(points), list(points.values()))
        if fit is None:
            continue
        lengths = list(points)
        row: dict[str, Any] = {
            "operator": key[0], "inputs": key[1], "lengths": f"{show_size(lengths[0])}..{show_size(lengths[-1])}",
            "exponent": fit.exponent, "low": fit.low, "high": fit.high,
            "local": " ".join(f"{slope:.2f}" for slope in fit.local),
        }  # fmt: skip
        if names[key] != BASELINE and (dense := base.get(key[1:])):
            common = [n for n in lengths if n in dense]
            theirs = scaling.fit(common, [dense[n] for n in common])
            where, measured = scaling.crossover(
                common, [points[n] for n in common], [dense[n] for n in common], fit, theirs
            )
            row["crossover"] = None if where is None else round(where)
            row["crossover_from"] = "" if where is None else "measured" if measured else "fit"
        table.append(row)
    return table
