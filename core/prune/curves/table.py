"""Records of samples to rows of points: accuracy and fidelity with intervals, and tests between methods."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...report.sections import Curve
from ..measure.statistics import area_under, difference, mcnemar, mean_interval, wilson
from ..sgl.tradeoff import exit_tradeoff
from .points import FULL

Record = Mapping[str, Any]
NEAR = (
    "top5_overlap", "log_p_change", "perplexity_ratio", "last_token_cosine", "oracle_spearman", "oracle_overlap"
)  # fmt: skip
"""Means of level B (section 3) beside those of section 8."""
_THIRD = 1 / 3
EXIT_TITLE = "accuracy against the share of questions that the large model is asked"


@dataclass(slots=True)
class Scored:
    """A method at a share: what became of each sample.

    Parameters
    ----------
    method : str
    keep : float
    records : dict, (sample, seed) -> record
    """

    method: str
    keep: float
    records: dict[tuple[str, int], Record] = field(default_factory=dict)

    @property
    def seeds(self) -> list[int]:
        return sorted({seed for _, seed in self.records})

    @property
    def tasks(self) -> dict[str, str | None]:
        """Task of each sample."""
        return {sample: record["task"] for (sample, _), record in self.records.items()}

    def values(self, name: str, samples: Sequence[str]) -> NDArray[np.float64]:
        """A field of each sample, mean over seeds, [n]; NaN where it has none."""
        table = np.array(
            [[_number(self.records.get((sample, seed), {}).get(name)) for seed in self.seeds] for sample in samples]
        ).reshape(len(samples), -1)
        means: NDArray[np.float64] = table.mean(1)
        return means

    def firsts(self, name: str, samples: Sequence[str]) -> NDArray[np.float64]:
        """A field of each sample with the first seed, [n]."""
        return np.array([_number(self.records.get((sample, self.seeds[0]), {}).get(name)) for sample in samples])


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def gathered(records: Iterable[Record]) -> tuple[dict[tuple[str, float], Scored], dict[str, str], list[str]]:
    """Records by method and share; failures by sample; and the samples that were asked, in their order."""
    points: dict[tuple[str, float], Scored] = {}
    failed: dict[str, str] = {}
    samples: dict[str, None] = {}
    for record in records:
        if "error" in record:
            failed[record["sample"]] = record["error"]
            continue
        samples[record["sample"]] = None
        key = record["method"], record["keep"]
        point = points.setdefault(key, Scored(*key))
        point.records[record["sample"], record["seed"]] = record
    return points, failed, list(samples)


def point_row(point: Scored, samples: Sequence[str]) -> dict[str, Any]:
    """What a method did at a share on some samples, in the names of methods/prune-evaluation.md, section 8."""
    scores = point.values("score", samples)
    right = scores[np.isfinite(scores)]
    accuracy = wilson(float(right.sum()), len(right))
    recall = mean_interval(point.values("evidence_recall", samples))
    kl = point.values("kl", samples)
    row: dict[str, Any] = {
        "method": point.method, "r_requested": point.keep, "r_counted": _mean(point.values("counted", samples)),
        "multiply_adds": _mean(point.values("multiply_adds", samples)),
        "flops_ratio": _mean(point.values("flops_ratio", samples)),
        "kv_bytes": _mean(point.values("kv_bytes", samples)),
        "seeds": len(point.seeds), "n": len(samples), "n_answered": len(right),
        "accuracy": accuracy.value, "ci_low": accuracy.low, "ci_high": accuracy.high,
        "kl_mean": _mean(kl), "kl_p95": float(np.nanpercentile(kl, 95)) if np.isfinite(kl).any() else math.nan,
        "top1_agree": _mean(point.values("top1", samples)), "seq_agree": _mean(point.values("same_answer", samples)),
        "attn_mass": _mean(point.values("attention_mass", samples)),
        **{name: _mean(point.values(name, samples)) for name in NEAR},
        "evidence_recall": recall.value, "evidence_low": recall.low, "evidence_high": recall.high,
        "padding_share": _mean(point.values("padding_share", samples)),
        "top_bottom_gap": _gap(scores, point.firsts("place", samples)),
    }  # fmt: skip
    if np.isfinite(large := point.values("large_calls", samples)).any():
        row["large_calls"] = _mean(large)
    if len(point.seeds) > 1:
        own = [
            _mean(Scored(point.method, point.keep, _of_seed(point, seed)).values("score", samples))
            for seed in point.seeds
        ]
        row["accuracy_sd"] = float(np.std(own, ddof=1))
    return row


def _of_seed(point: Scored, seed: int) -> dict[tuple[str, int], Record]:
    return {key: record for key, record in point.records.items() if key[1] == seed}


def _mean(values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else math.nan


def _gap(scores: NDArray[np.float64], places: NDArray[np.float64]) -> float:
    """Accuracy where the evidence is in the lower third of the picture, less that where it is in the upper one."""
    with np.errstate(invalid="ignore"):
        lower, upper = scores[places > 1 - _THIRD], scores[places < _THIRD]
    return _mean(lower) - _mean(upper)


def exit_curve(points: Sequence[Scored], samples: Sequence[str]) -> Curve | None:
    """Accuracy against the share of calls of the large model, at every threshold and share of tokens (methods/sgl.md,
    section 3.3). The guide sees all tokens: its decisions are the same at all shares. None where no answer was offered.
    """
    offering = [point for point in points if np.isfinite(point.values("decision", samples)).any()]
    if not offering:
        return None
    decisions = offering[0].values("decision", samples)
    known = np.isfinite(decisions)
    lines: dict[str, list[float]] = {}
    for point in offering:
        guide, large = (point.values(name, samples)[known] for name in ("score_guide", "score_large"))
        found = exit_tradeoff(decisions[known], guide, large)
        lines[f"{point.method} at {point.keep:.4g}"] = found.accuracy.tolist()
    lines["threshold"] = found.thresholds.tolist()
    return Curve("early_exit", lines, found.shares.tolist(), "large_calls", title=EXIT_TITLE)


def pair_row(first: Scored, second: Scored, samples: Sequence[str], *, binary: bool) -> dict[str, Any]:
    """Two methods at one share on the same samples.

    The difference is that of the means over seeds; McNemar's test takes the first seed of each, and right and wrong
    answers alone (``binary``).
    """
    one, other = first.values("score", samples), second.values("score", samples)
    both = np.isfinite(one) & np.isfinite(other)
    gap = difference(one[both], other[both])
    row: dict[str, Any] = {
        "method": first.method, "against": second.method, "r_requested": first.keep, "n": int(both.sum()),
        "difference": gap.value, "difference_low": gap.low, "difference_high": gap.high,
    }  # fmt: skip
    if binary and both.any():
        test = mcnemar(first.firsts("score", samples)[both], second.firsts("score", samples)[both])
        row |= {
            "better": test.first_only, "worse": test.second_only, "mcnemar_p": test.p_value,
            "mcnemar_exact": test.exact,
        }  # fmt: skip
    return row


def area_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each method the area under accuracy over the logarithm of the counted share, divided by the width, so that
    it is an accuracy; the whole model is the point at 1."""
    full = [(1.0, float(row["accuracy"])) for row in rows if row["method"] == FULL]
    lines: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        if row["method"] != FULL:
            lines[row["method"]].append((row["r_counted"], row["accuracy"]))
    found = []
    for method, points in lines.items():
        counted, accuracy = zip(*sorted([*points, *full]), strict=True)
        found.append({"method": method, "from": counted[0], "area": area_under(counted, accuracy)})
    return found
