"""What a report says of a run over a set: points, tests between methods, tasks, areas, and how to read them."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...batch.run import BatchOutcome
from ...report.model import Item, Report
from ...report.sections import Picture, Row, Section, Table
from ..data.samples import QuestionSet
from .answers import RULES, Rule
from .draw import draw
from .options import ORACLE, RANDOM
from .points import FULL, TOLERANCE
from .records import read_parts, write_lines
from .table import NEAR, Scored, area_rows, exit_curve, gathered, pair_row, point_row

POINTS, PLOT = "points.jsonl", "curves.png"
RANDOM_WEIGHTS = "random"
"""What ``told.model_kind`` calls a model that was never trained."""
NOTHING_LEARNT = (
    "The weights of this model are random: it was never trained. What was kept and counted is right; what it answers, "
    "and how far its answers are from each other, says nothing and is left out."
)
EARLY_EXIT = (
    "Early exit: accuracy is that of the answers that are given, the guide's own where it looks safe; large_calls is "
    "the share of questions that the large model is asked. All other numbers are of the large model, which was asked "
    "every question."
)
_JUDGED = frozenset(
    ("accuracy", "ci_low", "ci_high", "accuracy_sd", "kl_mean", "kl_p95", "top1_agree", "seq_agree", "attn_mass",
     "evidence_recall", "evidence_low", "evidence_high", "top_bottom_gap", *NEAR)
)  # fmt: skip
"""What a model that was never trained says nothing about."""
_SHORT = (
    "task", "method", "r_counted", "flops_ratio", "accuracy", "ci_low", "ci_high", "kl_mean", "top1_agree", "attn_mass",
    "evidence_recall",
)  # fmt: skip
"""Columns for a terminal."""


@dataclass(frozen=True, slots=True)
class Told:
    """A run over a set.

    Parameters
    ----------
    dataset : str
    folder : Path
    samples : QuestionSet
    model, kind : str
        As the user names it, and ``told.model_kind`` of it.
    rule : {"exact", "vqa"}
    left_out : sequence of str
        Points that could not be scored, and why.
    """

    dataset: str
    folder: Path
    samples: QuestionSet
    model: str
    kind: str
    rule: Rule
    left_out: Sequence[str]

    def report(self, outcome: BatchOutcome, arguments: Mapping[str, Any], device: str, start: float) -> Report:
        """What the records on disk come to; of a run that was interrupted, those that are there."""
        points, failed, asked = gathered(read_parts(self.folder))
        rows, off = self._rows(points, asked, None)
        tasks = sorted({task for point in points.values() for task in point.tasks.values() if task is not None})
        by_task: list[dict[str, Any]] = []
        for task in tasks if len(tasks) > 1 else []:
            by_task += self._rows(
                points, [sample for sample in asked if points[FULL, 1.0].tasks[sample] == task], task
            )[0]
        write_lines(self.folder / POINTS, [*rows, *by_task])
        sections, files = self._sections(points, asked, rows, by_task)
        whole = Item(
            self.dataset, str(self.folder), "ok", time.perf_counter() - start,
            metrics={"samples": len(asked), "unreadable": len(failed)},
            warnings=(*self.samples.warnings, *(f"left out: {reason}" for reason in (*self.left_out, *off))),
        )  # fmt: skip
        lost = [item for item in outcome.items if item.status == "failed"]
        items = [whole, *lost, *(Item(name, None, "failed", 0.0, error=why) for name, why in failed.items())]
        return outcome.report(
            "prune", arguments, device, start, items=items, notices=self._notices(rows), sections=sections, files=files,
            summary={"model": self.model, "model_kind": self.kind, "rule": self.rule},
            overview=[_short(row) | _calls(row) for row in rows],
        )  # fmt: skip

    def _rows(
        self, points: Mapping[tuple[str, float], Scored], samples: Sequence[str], task: str | None
    ) -> tuple[list[dict[str, Any]], list[str]]:
        """The rows of all points, and in words those whose counted budget is another than was asked for."""
        rows, off = [], []
        for point in points.values():
            row = {"task": task, "model": self.model, "model_kind": self.kind, **point_row(point, samples)}
            if self.kind == RANDOM_WEIGHTS:
                row = {name: None if name in _JUDGED else value for name, value in row.items()}
            if abs(row["r_counted"] - row["r_requested"]) > TOLERANCE:
                off.append(f"{point.method} at {point.keep:.4g}: what was counted is {row['r_counted']:.4g}")
            else:
                rows.append(row)
        return rows, off

    def _sections(
        self, points: Mapping[tuple[str, float], Scored], asked: Sequence[str], rows: Sequence[dict[str, Any]],
        by_task: Sequence[dict[str, Any]],
    ) -> tuple[list[Section], dict[str, str]]:  # fmt: skip
        files = {"points": str(self.folder / POINTS)}
        sections: list[Section] = [Table("points", rows, printed=False)]
        if self.kind == RANDOM_WEIGHTS or not rows:
            return sections, files
        draw(self.folder / PLOT, rows, f"{self.dataset}: {len(asked)} questions, {self.model}")
        files["curves"] = str(self.folder / PLOT)
        sections.append(Picture("curves", files["curves"], title="accuracy and fidelity", printed=False))
        if any(math.isfinite(row["accuracy"]) for row in rows):
            there = {(row["method"], row["r_requested"]) for row in rows}
            tests = self._tests(points, asked, there)
            sections.append(Table("tests", tests, title="differences in accuracy, with 95 % intervals"))
            sections.append(Table("areas", area_rows(rows), title="area under accuracy over log R, per width"))
            if (exits := exit_curve([point for key, point in points.items() if key in there], asked)) is not None:
                sections.append(exits)
        if by_task:
            sections.append(Table("tasks", by_task, [_short(row) for row in by_task]))
        return sections, files

    def _tests(
        self, points: Mapping[tuple[str, float], Scored], asked: Sequence[str], there: set[tuple[str, float]]
    ) -> list[Row]:
        """Each method against random and FastV at the same share, where both reached it."""
        rows = []
        for method, keep in there:
            for other in (RANDOM, "fastv"):
                if method not in (FULL, other) and (method, other) != (RANDOM, "fastv") and (other, keep) in there:
                    rows.append(pair_row(points[method, keep], points[other, keep], asked, binary=self.rule == "exact"))
        order = list(points)
        return sorted(rows, key=lambda row: (order.index((row["method"], row["r_requested"])), row["against"]))

    def _notices(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        said = [EARLY_EXIT] if any("large_calls" in row for row in rows) else []
        if self.kind == RANDOM_WEIGHTS:
            said.append(NOTHING_LEARNT)
        elif self.samples.answered:
            said.append(f"Answers: {RULES[self.rule]}.")
        said.append(
            f"R is the counted share of visual tokens, mean over all decoder layers, the same for all methods within "
            f"{TOLERANCE:.0%}. {ORACLE} chooses by the whole model's own attention; {RANDOM} by chance, and its "
            "accuracy is the mean over its seeds."
        )
        return said


def _calls(row: Mapping[str, Any]) -> dict[str, Any]:
    """Of early exit, which not all methods have."""
    return {"large_calls": row["large_calls"]} if "large_calls" in row else {}


def _short(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in _SHORT}
