"""What pruning does to the embedded vision-language model: the study of methods/prune-evaluation.md, level C.

    OMP_NUM_THREADS=1 python tests/benchmarks/prune_study.py [--n 2000] [--part budget,layer] [--folder study/]

Methods at equal counted budgets on drawn scenes whose objects are known: accuracy with intervals, evidence recall,
recency and padding with and without debiasing, a guide's choice, an optimised strategy, mask and crop, positions. All
choices (strength of a trend, strategy, threshold) are made on seed 2, everything is reported on seed 1. A part that is
done is kept in --folder and not done again. Tables go to standard output as Markdown, bars as lines that pass or fail;
where a paper's claim does not show at this size, its line says FAIL.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pruning import budget
from pruning.look import Eye
from pruning.tables import accuracy_table, against_random, curve_table, percent, pooled, recall_table, verdict
from pruning.tally import Kept, Tally

from attn.core.prune.shapes.sets import TEST
from attn.core.prune.shapes.words import TASKS


@dataclass(frozen=True)
class Study:
    """What all parts need."""

    eye: Eye
    loaded: Any
    guide: Eye | None
    kept: Kept
    count: int


def front(study: Study) -> Iterator[str]:
    """Pruned in front of the language model."""
    tallies = {task: budget.in_front(study.eye, study.kept, task, study.count, TEST, budget.MAIN) for task in TASKS}
    yield f"### Pruned in front of the language model, 25 % kept (n = {study.count} a task)\n"
    yield accuracy_table(tallies)
    yield "\nEvidence recall, %\n"
    yield recall_table(tallies)
    yield "\nDifference to random, points\n"
    yield against_random(tallies)
    yield "\nBars\n"
    whole = pooled(list(tallies.values()))
    yield from recall_bars(whole, ["visionzip", "class token", "divprune", "prumerge", "oracle"])
    for task in ("colour", "where", "relation", "digit"):
        yield ahead(tallies[task], ["visionzip", "class token", "divprune", "prumerge"], task, 10, "in front")
    less = max(study.count // 4, 1)
    by_share = {
        share: pooled([budget.in_front(study.eye, study.kept, task, less, TEST, share) for task in TASKS])
        for share in budget.KEEPS
    }
    yield f"\n### The share that is kept, in front of the language model (all tasks, n = {less} each)\n"
    yield curve_table(by_share)


def layer(study: Study) -> Iterator[str]:
    """Pruned in front of layer 2."""
    tallies = {task: budget.at_layer(study.eye, study.kept, task, study.count, TEST, budget.MAIN) for task in TASKS}
    yield f"### Pruned in front of layer {budget.LAYER}, 25 % kept behind it (n = {study.count} a task)\n"
    yield accuracy_table(tallies)
    yield "\nEvidence recall, %\n"
    yield recall_table(tallies)
    yield "\nDifference to random, points\n"
    yield against_random(tallies)
    yield "\nBars\n"
    names = [name for name in tallies["where"].values if name not in ("full", "oracle", *budget.RANDOMS)]
    yield from recall_bars(pooled(list(tallies.values())), [*names, "oracle"])
    for task in ("exists", "where", "relation"):
        yield ahead(tallies[task], names, task, 10, "at layer 2")
        gap = tallies[task].accuracy("fastv").value - tallies[task].accuracy(*budget.RANDOMS).value
        yield verdict(f"FastV above random on {task}", gap > 0, f"{100 * gap:+.1f} points")


def recall_bars(tally: Tally, names: list[str]) -> Iterator[str]:
    chance = tally.mean("recall", *budget.RANDOMS)
    for name in names:
        own = tally.mean("recall", name)
        yield verdict(f"evidence recall of {name} above random, intervals apart", own.low > chance.high,
                      f"{percent(own)} against {percent(chance)}")  # fmt: skip


def ahead(tally: Tally, names: list[str], task: str, points: float, where: str) -> str:
    """The best method that looks is so many points above random."""
    chance = tally.accuracy(*budget.RANDOMS)
    best = max(names, key=lambda name: tally.accuracy(name).value)
    gap = 100 * (tally.accuracy(best).value - chance.value)
    text = f"the best method {where} at least {points:g} points above random on {task}"
    return verdict(text, gap >= points, f"{best} {percent(tally.accuracy(best))}, {gap:+.1f} points")


PARTS: dict[str, Callable[[Study], Iterator[str]]] = {"front": front, "layer": layer}


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
    guide = None if args.guide == "none" else opened(args.guide)[1]
    study = Study(eye, loaded, guide, Kept(args.folder), args.n)
    for part in wanted:
        start = time.process_time()
        for text in PARTS[part](study):
            print(text, flush=True)
        print(f"\n_{part}: {time.process_time() - start:.0f} CPU seconds in this run_\n", flush=True)


def opened(name: str) -> tuple[Any, Eye]:
    """A model, and what is looked at of it."""
    from attn.core.models.load import load_model

    loaded = load_model(name, "vision-language")
    return loaded, Eye(loaded.model)


if __name__ == "__main__":
    main()
