"""Tables of several runs of attn train oat: mean and deviation over seeds.

Usage: python tests/benchmarks/gaze_table.py NAME=A.json,B.json …

Each file is what one run printed with --json; those of one name differ in their seed alone.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

SCORES = ("ss", "fed", "delta", "tfp_auc", "sim", "nll")
MULTIMATCH = ("mm_vector", "mm_direction", "mm_length", "mm_position")
TESTS = ("known", "layouts", "targets")
BEHAVIOUR = ("correct", "length", "search", "refixation", "revisit")


def shown(values: list[Any]) -> str:
    """Mean ± standard deviation; a dash where there are no values."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    return f"{statistics.fmean(known):.3f} ± {statistics.stdev(known):.3f}"


def table(title: str, names: list[str], rows: list[list[str]]) -> None:
    print(f"\n{title}\n\n| {' | '.join(names)} |\n|{'---|' * len(names)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def main() -> None:
    runs = {}
    for argument in sys.argv[1:]:
        name, _, files = argument.partition("=")
        items = [json.loads(Path(file).read_text())["items"][0] for file in files.split(",")]
        runs[name] = [item["details"]["samplers"] for item in items]
    for test, scores in (*((test, SCORES) for test in TESTS), (TESTS[0], MULTIMATCH)):
        rows = []
        for name, found in runs.items():
            samplers = [row["sampler"] for row in found[0] if row["test"] == test]
            for sampler in samplers if name == next(iter(runs)) else samplers[:1]:
                own = [row for rows_ in found for row in rows_ if row["test"] == test and row["sampler"] == sampler]
                label = f"{sampler}, {name}" if sampler == samplers[0] else sampler
                rows.append([label, *(shown([row.get(score) for row in own]) for score in scores)])
        table(test, ["sampler", *scores], rows)
    rows = []
    for name, found in runs.items():
        for test in TESTS:
            own = [row for rows_ in found for row in rows_ if row["test"] == test and row["sampler"] == "oat"]
            for party in ("", "human_"):
                label = f"{test}, {'searcher' if party else name}"
                rows.append([label, *(shown([row[f"{party}{score}"] for row in own]) for score in BEHAVIOUR)])
    table("behaviour", ["paths", *BEHAVIOUR], rows)


if __name__ == "__main__":
    main()
