"""What the comparisons came to: means and spread over support sets, and what each changes, in words."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from statistics import fmean
from typing import Any

from ...fit.repeated import means
from .options import PLAIN, FewShotDetectOptions

MEASURED = ("ap50", "map", "redundant", "distance_change")
"""With their spread."""


def summary_rows(
    options: FewShotDetectOptions, rows: list[dict[str, Any]], source: Mapping[str, Mapping[str, float]]
) -> list[dict[str, Any]]:
    """Means and deviations over support sets, by shots and modules; then the source detector on both domains."""
    table: list[dict[str, Any]] = []
    for shots, arm in product(options.shots, options.modules):
        own = [row for row in rows if (row["shots"], row["modules"]) == (shots, arm)]
        line: dict[str, Any] = {"shots": shots, "modules": arm}
        line |= means(own, MEASURED)
        line |= {
            name: fmean(row[name] for row in own)
            for name in ("cells_front", "cells_back", "cells_both", "cells_none", "loss_detector", "loss_tsa")
            if name in own[0]
        }
        table.append(line)
    table += [
        {"shots": 0, "modules": f"none, on the {name}", **{key: found[key] for key in MEASURED if key in found}}
        for name, found in source.items()
    ]
    return table


def verdicts(options: FewShotDetectOptions, rows: list[dict[str, Any]]) -> list[str]:
    """What each arm changes against plain fine-tuning on the same support sets, in words."""
    value = {(row["shots"], row["seed"], row["modules"]): row for row in rows}
    said = []
    for shots, arm in product(options.shots, options.modules):
        if arm == PLAIN or PLAIN not in options.modules:
            continue
        pairs = [(value[shots, seed, arm], value[shots, seed, PLAIN]) for seed in range(options.repeats)]
        gains = [100 * (ours["ap50"] - theirs["ap50"]) for ours, theirs in pairs]
        better = sum(gain > 0 for gain in gains)
        boxes = fmean(ours["redundant"] - theirs["redundant"] for ours, theirs in pairs)
        distance = fmean(ours["distance_change"] - theirs["distance_change"] for ours, theirs in pairs)
        word = "helps" if better == len(gains) else "does not help" if better == 0 else "is undecided"
        said.append(
            f"{shots}-shot, {arm} {word}: AP50 {fmean(gains):+.1f} points against plain, better in {better} of "
            f"{len(gains)} sets; redundant boxes {boxes:+.2f} per object, distance {distance:+.1f} %."
        )
    return said
