"""`attn train oat`: a network that searches as the simulated searcher does, beside samplers without one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...fit.frame import MODEL, RecipeRun, run_of
from ...fit.loop import Outcome, Plan
from ...probe.scanpath.compare import compare
from ...probe.scanpath.model import SearchModel, SearchShape, read_model, write_model
from ...progress import Watcher
from ...report.model import Report, plain
from ...report.sections import Row, Table
from .baselines import BASELINES, sample, strength_of
from .data import DEVELOPMENT, SETS, TRAINING, SearchedScene, searched_scenes, shared
from .options import OATOptions
from .recipe import OATRecipe, beside, forced, sampled
from .searcher import LONGEST, chances, search

OWN, CEILING = "oat", "another searcher"
PAIRS = 10
"""Drawn paths of each shelf whose MultiMatch is taken: it costs fifty times what the others do."""
SHOWN = ("ss", "fed", "mm_vector", "mm_direction", "mm_length", "mm_position", "delta", "tfp_auc")


def train_oat(
    options: OATOptions, *, watcher: Watcher | None = None, arguments: Mapping[str, Any] | None = None
) -> Report:
    """Train the object-level attention transformer on drawn shelves, and judge it beside samplers.

    Parameters
    ----------
    options : OATOptions
    watcher : Watcher, optional
        Told step and steps; None: a bar on a terminal.
    arguments : mapping, optional
        What the report records of the call beside the options.

    Returns
    -------
    Report with one item: scores of the network on each test, a table of all samplers, files, warnings.

    Raises
    ------
    UsageError
        If the folder cannot be used.
    """
    with run_of("oat", options, watcher=watcher, arguments=arguments, names=("loss", "sim", "ss")) as run:
        run.alone("its batches are drawn whole")
        shape = SearchShape(
            options.width, options.heads, options.layers, options.feed_forward, positions=options.positions,
            compat=options.compat, longest=LONGEST,
        )  # fmt: skip
        seed = options.compute.seed
        training = searched_scenes(TRAINING, seed, options.scenes, options.searchers, shape.crop)
        development = searched_scenes(DEVELOPMENT, seed, -(-options.judged // 2), options.searchers, shape.crop)
        net = shape.drawn(seed).to(run.device)
        recipe = OATRecipe(net, shape, training, development, options.batch, seed)
        plan = Plan(
            steps=options.steps, warmup=options.warmup, learning_rate=options.learning_rate,
            weight_decay=options.weight_decay, evaluate_every=options.evaluate_every, average=0.99,
        )  # fmt: skip
        outcome = run.fit(recipe, plan, identity={"scenes": "drawn shelves"})
        if outcome.interrupted or not outcome.best:
            return run.report(outcome, data="drawn shelves")
        write_model(run.output / MODEL, net, shape, run.facts())
        model = read_model(run.output / MODEL)  # what is judged is what is kept
        model.net.to(run.device)
        tests = {
            name: searched_scenes(purpose, seed, options.judged, options.searchers, shape.crop)
            for name, purpose in SETS.items()
        }
        rows = [row for name, scenes in tests.items() for row in judged(model, name, scenes, training, options)]
        return finished(run, model, tests, training, rows, outcome)


def judged(
    model: SearchModel, name: str, scenes: Sequence[SearchedScene], training: Sequence[SearchedScene],
    options: OATOptions,
) -> list[Row]:  # fmt: skip
    """The lines of one test: the network, another searcher, and each sampler."""
    seed = options.compute.seed
    drawn = {OWN: sampled(model, scenes, options.samples, seed)}
    rng = np.random.default_rng((seed, 11))
    drawn[CEILING] = [
        beside(scene, [search(rng, scene.cells, scene.shelf.likeness, scene.shelf.target)
                       for _ in range(options.samples)])
        for scene in scenes
    ]  # fmt: skip
    for other, cue in BASELINES.items():
        strength = strength_of(cue, training)
        drawn[other] = [
            beside(scene, sample(rng, cue, strength, scene, options.samples, model.shape.longest)) for scene in scenes
        ]
    rows: list[Row] = []
    for sampler, paths in drawn.items():
        found = compare(paths, longest=model.shape.longest, pairs=PAIRS, compat=options.compat)
        known: dict[str, float] = forced(model.net, scenes) if sampler == OWN else {}
        if sampler == CEILING:
            known = ruled(scenes)
        rows.append({"test": name, "sampler": sampler, **found, **known})
    return rows


def ruled(scenes: Sequence[SearchedScene]) -> dict[str, float]:
    """``sim`` and ``nll`` of the rule itself: what a network that knew it would have."""
    found = np.concatenate([
        chances(scene.cells, scene.shelf.likeness, scene.shelf.target, path) for scene in scenes for path in scene.paths
    ])  # fmt: skip
    return {"sim": float(found.mean()), "nll": float(-np.log(found).mean())}


def finished(
    run: RecipeRun, model: SearchModel, tests: Mapping[str, Sequence[SearchedScene]],
    training: Sequence[SearchedScene], rows: Sequence[Row], outcome: Outcome,
) -> Report:  # fmt: skip
    """The model written with its figures, the card, the report."""
    own = {row["test"]: row for row in rows if row["sampler"] == OWN}
    metrics = {f"{test}_{name}": float(row[name]) for test, row in own.items() for name in (*SHOWN, "sim", "nll")}
    compared = {
        "shelves": {"training": len(training), **{name: len(scenes) for name, scenes in tests.items()}},
        "shared_with_training": {name: shared(scenes, training) for name, scenes in tests.items()},
    }
    facts = run.facts(metrics=plain(metrics), seconds=round(outcome.seconds), **compared)
    run.save(lambda path: write_model(path, model.net, model.shape, facts), lambda size: card(facts, rows, size, model))
    short = [{name: row[name] for name in ("test", "sampler", *SHOWN[:2], "delta")} for row in rows]
    return run.report(
        outcome, data="drawn shelves", details=compared, metrics=metrics,
        sections=(Table("samplers", rows, title="Paths against those of the searchers", short=short),),
    )  # fmt: skip


def card(facts: Mapping[str, Any], rows: Sequence[Row], size: int, model: SearchModel) -> str:
    """The model card, Markdown."""
    names = ("test", "sampler", *SHOWN, "sim", "nll")
    cells = [
        [value if isinstance(value := row.get(name), str) else "–" if value is None else f"{value:.3f}"
         for name in names] for row in rows
    ]  # fmt: skip
    count = sum(parameter.numel() for parameter in model.net.parameters())
    return "\n".join([
        "# An object-level attention transformer that searches drawn shelves", "",
        "It predicts in which order the objects of a picture are looked at until a target is found (arXiv 2407.13335).",
        "", f"- {count} parameters, {size} bytes, float16; `attn probe scanpath PICTURE --model FILE` draws its paths.",
        f"- Data: {facts['shelves']['training']} shelves that the recipe draws, and the paths of a simulated searcher",
        "  whose rule is in `core/train/oat/searcher.py`: it has never seen a person's gaze. MIT licence, as attn.",
        f"- Shelves of tests that are also in training: {facts['shared_with_training']}.",
        f"- Command: `attn train oat -o DIR`; options: {facts['options']}",
        f"- attn {facts['attn']}, torch {facts['torch']}, {facts['seconds']} s of training.", "",
        "known: shelves as in training; layouts: other numbers of rows and columns; targets: hues that no cover of",
        "training has. Another searcher is the rule itself with other numbers.", "",
        "| " + " | ".join(names) + " |", "|" + "---|" * len(names), *("| " + " | ".join(line) + " |" for line in cells),
    ]) + "\n"  # fmt: skip
