"""Scores of vessel models on every set of photos that is there: the held-out photos, or the test halves.

``python tests/benchmarks/camera_sets.py DATA/fundus [--part held_out|test] [--models NAME|FILE,…] [--thresholds …]
[--tta]`` prints a Markdown table: means over the photos of each part of fundus_split.json, inside the field of view
that comes with the set. Everything was chosen on ``held_out``; ``test`` is for the one run after that.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from attn.core.batch.task import Task
from attn.core.segment.case import read_case, segment_case
from attn.core.segment.companions import Companions
from attn.core.segment.options import SegmentOptions, parse_threshold
from attn.core.segment.score.metrics import scores

SPLIT = Path(__file__).with_name("fundus_split.json")
COLUMNS = ("f1", "auc", "sensitivity", "specificity", "mcc")


def photo_of(folder: Path, stem: str) -> Path:
    return next(path for path in sorted((folder / "images").iterdir()) if path.stem == stem)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--part", default="held_out", choices=("held_out", "test"))
    parser.add_argument("--models", default="fsgnet")
    parser.add_argument("--thresholds", default="auto")
    parser.add_argument("--sets", default="DRIVE,HRF,FIVES")
    parser.add_argument("--tta", action="store_true")
    arguments = parser.parse_args()
    split = json.loads(SPLIT.read_text(encoding="utf-8"))
    print("| set | photos | model | threshold | F1 | AUC | sensitivity | specificity | MCC | lowest F1 |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in arguments.sets.split(","):
        folder, stems = arguments.data / name, split[name][arguments.part]
        for model in arguments.models.split(","):
            rows: dict[str, list[dict[str, float]]] = {text: [] for text in arguments.thresholds.split(",")}
            for stem in stems:
                companions = Companions(folder / "manual" / f"{stem}.png", folder / "fov" / f"{stem}.png", ())
                options = SegmentOptions(model=model, fov=str(folder / "fov"), tta=arguments.tta)
                case, _ = read_case(Task(photo_of(folder, stem), None, stem, companions), options)
                for text, found in rows.items():
                    chosen = replace(options, threshold=parse_threshold(text))
                    segmented, prediction = segment_case(case, model, chosen)
                    assert case.truth is not None
                    truth, field = case.truth.pixels, case.fov.mask
                    found.append(scores(prediction.prob, truth & field, field, threshold=segmented.threshold.value))
            for text, found in rows.items():
                means = " | ".join(f"{np.mean([row[column] for row in found]):.4f}" for column in COLUMNS)
                lowest = min(row["f1"] for row in found)
                print(f"| {name} | {len(stems)} | {Path(model).stem} | {text} | {means} | {lowest:.4f} |", flush=True)


if __name__ == "__main__":
    main()
