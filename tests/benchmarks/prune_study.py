"""What pruning does to the embedded vision-language model: the study of methods/prune-evaluation.md, level C.

    OMP_NUM_THREADS=1 python tests/benchmarks/prune_study.py [--n 2000] [--part front,layer] [--folder study/]

Methods at equal counted budgets on drawn scenes whose objects are known: accuracy with intervals, evidence recall,
recency and padding with and without debiasing, a guide's choice, an optimised strategy, mask and crop, positions. All
choices (strength of a trend, strategy, threshold, the best method of a bar) are made on seed 2, everything is reported
on seed 1. A part that is done is kept in --folder and not done again. Tables go to standard output as Markdown, bars as
lines that pass or fail; where a paper's claim does not show at this size, its line says FAIL.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch
from pruning.look import Eye
from pruning.parts import PARTS, Study
from pruning.tally import Kept

from attn.core.models.load import load_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=2000, help="questions of each task")
    parser.add_argument("--part", default=",".join(PARTS), help="which parts, separated by commas")
    parser.add_argument("--model", default="shapes", help="the embedded model, or a folder")
    parser.add_argument("--guide", default="shapes-guide", help="the embedded guide, a folder, or none")
    parser.add_argument("--folder", type=Path, default=Path("prune-study"), help="where parts that are done are kept")
    args = parser.parse_args()
    torch.set_num_threads(1)
    wanted = args.part.split(",")
    if unknown := [part for part in wanted if part not in PARTS]:
        sys.exit(f"no part named {unknown[0]!r}; there are {', '.join(PARTS)}")
    loaded, eye = opened(args.model)
    small = None if args.guide == "none" else opened(args.guide)[1]
    study = Study(args.model, eye, loaded, small, Kept(args.folder), args.n)
    for part in wanted:
        start = time.process_time()
        for text in PARTS[part](study):
            print(text, flush=True)
        print(f"\n_{part}: {time.process_time() - start:.0f} CPU seconds in this run_\n", flush=True)


def opened(name: str) -> tuple[Any, Eye]:
    """A model, and what is looked at of it."""
    loaded = load_model(name, "vision-language")
    return loaded, Eye(loaded.model)


if __name__ == "__main__":
    main()
