"""The parts of the study: what is measured, the tables of it, and its bars."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from attn.core.prune.carve.method import Carve
from attn.core.prune.measure.statistics import difference, mcnemar, mean_interval, wilson
from attn.core.prune.shapes.sets import DEVELOPMENT, TEST
from attn.core.prune.shapes.words import TASKS

from . import bias, budget, crop, flow, guiding, positions
from .look import Eye
from .tables import accuracy_table, against_random, curve_table, percent, pooled, recall_table, table, verdict
from .tally import Kept, Tally


@dataclass(frozen=True)
class Study:
    """What all parts need."""

    model: str
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
    names = [name for name in whole.values if name not in ("full", "uniform", "oracle", *budget.RANDOMS)]
    yield from recall_bars(whole, [*names, "oracle"])
    for task in ("colour", "where", "relation", "digit"):
        picked = budget.in_front(study.eye, study.kept, task, max(study.count // 4, 1), DEVELOPMENT, budget.MAIN)
        yield ahead(picked, tallies[task], names, task, 10, "in front")
    less = max(study.count // 8, 1)
    by_share = {
        share: whole if share == budget.MAIN else pooled(
            [budget.in_front(study.eye, study.kept, task, less, TEST, share) for task in TASKS]
        )
        for share in budget.KEEPS
    }  # fmt: skip
    yield f"\n### The share that is kept, in front of the language model (all tasks; n = {less} each, but at 25 %)\n"
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
        picked = budget.at_layer(study.eye, study.kept, task, max(study.count // 4, 1), DEVELOPMENT, budget.MAIN)
        yield ahead(picked, tallies[task], names, task, 10, f"at layer {budget.LAYER}")
        gap = tallies[task].accuracy("fastv").value - tallies[task].accuracy(*budget.RANDOMS).value
        yield verdict(f"FastV above random on {task}", gap > 0, f"{100 * gap:+.1f} points")


def deep(study: Study) -> Iterator[str]:
    """Pruned inside the language model, earlier and further: when has its text read the picture?"""
    less = max(study.count // 8, 1)
    rows = []
    for place, share, task in product(budget.DEEP_LAYERS, budget.DEEP_KEEPS, budget.DEEP_TASKS):
        picked, tally = (
            budget.at_layer(study.eye, study.kept, task, less, seed, share, place) for seed in (DEVELOPMENT, TEST)
        )
        names = [name for name in tally.values if name not in ("full", "oracle", *budget.STAGED, *budget.RANDOMS)]
        best = max(names, key=lambda name: picked.accuracy(name).value)
        gap = difference(tally.group([best], "right"), tally.group(budget.RANDOMS, "right"))
        rows.append(
            [task, place, f"{share:.0%}", percent(tally.accuracy(*budget.RANDOMS)), best, percent(tally.accuracy(best)),
             f"{100 * gap.value:+.1f} [{100 * gap.low:+.1f}, {100 * gap.high:+.1f}]"]
        )  # fmt: skip
    yield f"### Pruned inside the language model, earlier and further (n = {less}; the best is picked on seed 2)\n"
    yield table(["task", "in front of layer", "kept behind it", "random", "best", "its accuracy", "points"], rows)


def recall_bars(tally: Tally, names: list[str]) -> Iterator[str]:
    chance = tally.mean("recall", *budget.RANDOMS)
    for name in names:
        own = tally.mean("recall", name)
        yield verdict(f"evidence recall of {name} above random, intervals apart", own.low > chance.high,
                      f"{percent(own)} against {percent(chance)}")  # fmt: skip


def ahead(picked: Tally, tally: Tally, names: list[str], task: str, points: float, where: str) -> str:
    """The method that looks and is the best of those of ``picked`` is so many points above random in ``tally``."""
    chance = tally.accuracy(*budget.RANDOMS)
    best = max(names, key=lambda name: picked.accuracy(name).value)
    gap = 100 * (tally.accuracy(best).value - chance.value)
    text = f"the best method {where} at least {points:g} points above random on {task}"
    return verdict(text, gap >= points, f"{best} {percent(tally.accuracy(best))}, {gap:+.1f} points")


def debias(study: Study) -> Iterator[str]:
    """Recency and padding, with and without debiasing."""
    less = max(study.count // 4, 1)
    sigmas = bias.strengths(study.eye, min(200, less), DEVELOPMENT)
    frequency = bias.kept_frequency(study.eye, min(200, less), TEST, budget.MAIN, sigmas)
    found = {
        (which, task): bias.debiased(study.eye, study.kept, which, task, less, TEST, budget.MAIN, sigmas)
        for which in bias.SETS
        for task in bias.TASKS
    }
    sets = {which: pooled([found[which, task] for task in bias.TASKS]) for which in bias.SETS}
    yield f"### Debiasing, 25 % kept ({', '.join(bias.TASKS)}; n = {less} a task and set)\n"
    yield "Strength sigma of the trend over positions, fitted on seed 2: " + ", ".join(
        f"{name} {sigma:+.2f}" for name, sigma in sigmas.items()
    )
    yield "\nThe same of how often a position is kept: " + ", ".join(f"{n} {s:+.2f}" for n, s in frequency.items())
    rows = []
    for name in sets["square"].values:
        if name == "full":
            rows.append([name, *(percent(sets[which].accuracy(name)) for which in sets), "", "", ""])
            continue
        gap = sets["bottom third"].accuracy(name).value - sets["top third"].accuracy(name).value
        rows.append(
            [name, *(percent(sets[which].accuracy(name)) for which in sets), f"{100 * gap:+.1f}",
             f"{100 * sets['letterboxed'].mean('padding', name).value:.1f}",
             f"{100 * sets['square'].mean('below', name).value:.1f}"]
        )  # fmt: skip
    header = ["method", *(f"accuracy, {which}" for which in sets), "bottom - top", "padding kept, %", "kept below, %"]
    yield "\n" + table(header, rows)
    yield "\nBars\n"
    for name in bias.METHODS:
        for part in ("+debias:pas", "+debias"):
            share = sets["letterboxed"].mean("padding", name + part).value
            was = sets["letterboxed"].mean("padding", name).value
            yield verdict(f"{name}{part} keeps no padding", share == 0, f"{100 * share:.2f} % ({100 * was:.1f} before)")
            loss = sets["square"].accuracy(name).value - sets["square"].accuracy(name + part).value
            yield verdict(f"{name}{part} loses at most 1 point on square pictures", loss <= 0.01, f"{-100 * loss:+.1f}")
        gaps = [
            sets["bottom third"].accuracy(name + part).value - sets["top third"].accuracy(name + part).value
            for part in ("", "+debias")
        ]
        shrinks = abs(gaps[1]) <= abs(gaps[0]) + 1e-9  # rounding
        yield verdict(
            f"the gap bottom - top of {name} shrinks", shrinks, f"{100 * gaps[0]:+.1f} to {100 * gaps[1]:+.1f}"
        )


def place(study: Study) -> Iterator[str]:
    """Positions kept or numbered anew."""
    yield f"### Positions kept or numbered anew, 25 % kept (n = {study.count // 2} a task)\n"
    found = {
        task: positions.numbered(study.eye, study.kept, task, max(study.count // 2, 1), TEST, budget.MAIN)
        for task in positions.TASKS
    }
    rows = []
    for name in [name.removesuffix("/keep") for name in found["where"].values if name.endswith("/keep")]:
        cells = []
        for tally in found.values():
            keep, compact = (tally.accuracy(f"{name}/{which}") for which in ("keep", "compact"))
            test = mcnemar(tally.values[f"{name}/keep"]["right"], tally.values[f"{name}/compact"]["right"])
            cells.append(f"{100 * keep.value:.1f} / {100 * compact.value:.1f}, p {test.p_value:.2g}")
        rows.append([name, *cells])
    yield table(["method: kept / anew", *found], rows)
    yield "\nBars\n"
    for name in [row[0] for row in rows]:
        tally = found["where"]
        drop = tally.accuracy(f"{name}/keep").value - tally.accuracy(f"{name}/compact").value
        yield verdict(
            f"`where` drops sharply (20 points) if {name} is numbered anew", drop >= 0.2, f"{-100 * drop:+.1f}"
        )


def guide(study: Study) -> Iterator[str]:
    """A smaller model as guide."""
    if study.guide is None:
        yield "### A guide: none was given\n"
        return
    less = max(study.count // 4, 1)
    found = {task: guiding.guided(study.eye, study.guide, study.kept, task, less, TEST, budget.MAIN) for task in TASKS}
    yield f"### A smaller model as guide, 25 % kept (n = {less} a task)\n"
    yield accuracy_table(found)
    ranks, overlaps = zip(*(
        guiding.agreement(study.eye, study.guide, task, min(200, less), TEST, budget.MAIN) for task in TASKS
    ), strict=True)  # fmt: skip
    rows = [[task, f"{np.mean(rank):.3f}", f"{np.mean(overlap):.3f}"]
            for task, rank, overlap in zip(TASKS, ranks, overlaps, strict=True)]  # fmt: skip
    yield "\nAgreement of guide and model, attention of all layers\n"
    yield table(["task", "Spearman", "overlap of the best quarter"], rows)
    some = min(200, less)
    development, test = (
        guiding.joined([guiding.exits(study.eye, study.guide, task, some, seed, budget.MAIN) for task in TASKS])
        for seed in (DEVELOPMENT, TEST)
    )
    rows = []
    for wanted in (1.0, 0.75, 0.5, 0.25, 0.1, 0.0):
        threshold = float(np.quantile(development.score, wanted)) if wanted < 1 else math.inf
        calls, accuracy = test.at(threshold if wanted > 0 else -math.inf)
        rows.append([f"{100 * wanted:g} %", f"{100 * calls:.1f} %", f"{100 * accuracy:.1f}"])
    yield f"\nEarly exit (threshold for a share of calls from seed 2; n = {some} a task, all tasks)\n"
    yield table(["calls of the large model, wanted", "measured", "accuracy"], rows)
    yield "\nBars\n"
    whole = pooled(list(found.values()))
    ours, theirs = whole.accuracy(f"sgl, layer {budget.LAYER}"), whole.accuracy("fastv")
    text = f"sgl at least as accurate as fastv, both at layer {budget.LAYER}"
    yield verdict(text, ours.value >= theirs.value, f"{percent(ours)} against {percent(theirs)}")
    single = max((name for name in whole.values if name.endswith("of the model") and name[:3] != "all"),
                 key=lambda name: whole.accuracy(name).value)  # fmt: skip
    every = whole.accuracy("all layers of the model")
    yield verdict("attention of all layers at least as good as that of any one layer",
                  every.value >= whole.accuracy(single).value,
                  f"all {percent(every)}, best single: {single} {percent(whole.accuracy(single))}")  # fmt: skip


def optimised(study: Study) -> Iterator[str]:
    """VFlowOpt with and without its optimisation."""
    rows, bars = [], []
    some = min(600, study.count)
    for share in (0.5, 0.25):
        held = flow.compared(
            study.loaded, flow.strategy(study.model, study.kept.folder, DEVELOPMENT, share), some, TEST
        )
        for name, one in held.items():
            right = wilson(float(one.right.sum()), len(one.right))
            cosine = mean_interval(one.cosine)
            rows.append(
                [name, f"{one.share:.3f}", f"{cosine.value:.4f} [{cosine.low:.4f}, {cosine.high:.4f}]",
                 f"{one.kl.mean():.3f}", percent(right)]
            )  # fmt: skip
        for other in ("plain", "mean attention", "random 0"):
            gap = difference(held["optimised"].cosine, held[other].cosine)
            bars.append(verdict(f"optimised above {other} in last-token cosine at {share:.0%}", gap.low > 0,
                                f"{gap.value:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}]"))  # fmt: skip
    yield f"### VFlowOpt, optimised on 30 questions of seed 2 (n = {some} held-out questions of all tasks)\n"
    yield table(["strategy", "R", "cosine of the last token", "KL, nats", "accuracy"], rows)
    yield "\nBars\n"
    yield from bars


def crops(study: Study) -> Iterator[str]:
    """CARVE's mask."""
    some = min(200, study.count)
    carve = Carve(final="refined", max_new_tokens=3)
    rows, bars = [], []
    for task in crop.TASKS:
        found = crop.masks(study.loaded, task, some, TEST, carve)
        for number, name in enumerate(crop.NAMES):
            held, exact = (mean_interval(found["masks"][:, number, which]) for which in (0, 1))
            rows.append([task, name, percent(held), percent(exact)])
        gap = difference(found["masks"][:, 0, 0], found["masks"][:, 1, 0])
        text = f"more of the object in the mask by contrast than by plain attention ({task})"
        shown = f"{100 * gap.value:+.1f} [{100 * gap.low:+.1f}, {100 * gap.high:+.1f}] points"
        bars.append(verdict(text, gap.low > 0, shown))
        before, after = (wilson(float(found["right"][:, which].sum()), some) for which in (0, 1))
        rows.append([task, "_accuracy whole / refined picture_", percent(before), percent(after)])
    yield f"### CARVE: mask of a fifth of the picture (n = {some} a task)\n"
    yield table(["task", "mask", "share of the object in it, %", "share of it that is the object, %"], rows)
    yield "\nBars\n"
    yield from bars


PARTS: dict[str, Callable[[Study], Iterator[str]]] = {
    "front": front, "layer": layer, "deep": deep, "debias": debias, "place": place, "guide": guide,
    "optimised": optimised, "crops": crops,
}  # fmt: skip
