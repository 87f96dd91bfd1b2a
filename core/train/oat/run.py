"""`attn train oat`: a network that searches as the simulated searcher does, beside samplers without one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...fit.frame import MODEL, RecipeRun, run_of
from ...fit.loop import Outcome, Plan
from ...models.files import sha256
from ...probe.scanpath.compare import ScenePaths, compare
from ...probe.scanpath.model import SearchModel, SearchShape, read_model, write_model
from ...progress import Watcher
from ...report.model import Report, plain
from ...report.sections import Row, Table
from ...report.write import markdown_table
from .baselines import BASELINES, sample, strength_of
from .data import DEVELOPMENT, SETS, TRAINING, SearchedScene, searched_scenes, shared
from .options import SHELVES, OATOptions
from .recipe import OATRecipe, beside, forced, sampled
from .recorded import divided, read_recorded
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
    InputError
        If the file of recorded paths cannot.
    """
    with run_of("oat", options, watcher=watcher, arguments=arguments, names=("loss", "sim", "ss")) as run:
        run.alone("its batches are drawn whole")
        shape = SearchShape(
            options.width, options.heads, options.layers, options.feed_forward, positions=options.positions,
            compat=options.compat, longest=LONGEST,
        )  # fmt: skip
        seed = options.compute.seed
        scenes = searches_of(options, shape.crop)
        shape = replace(shape, longest=scenes.longest)
        net = shape.drawn(seed).to(run.device)
        recipe = OATRecipe(net, shape, scenes.training, scenes.development, options.batch, seed)
        plan = Plan(
            steps=options.steps, warmup=options.warmup, learning_rate=options.learning_rate,
            weight_decay=options.weight_decay, evaluate_every=options.evaluate_every, average=0.99,
        )  # fmt: skip
        outcome = run.fit(recipe, plan, identity={"scenes": scenes.digest})
        if outcome.interrupted or not outcome.best:
            return run.report(outcome, data=options.data)
        write_model(run.output / MODEL, net, shape, run.facts())
        model = read_model(run.output / MODEL)  # what is judged is what is kept
        model.net.to(run.device)
        rows = [row for name, test in scenes.tests.items() for row in judged(model, name, test, scenes, options)]
        return finished(run, model, scenes, rows, outcome)


@dataclass(frozen=True, slots=True)
class Searches:
    """All scenes of a run.

    Parameters
    ----------
    training, development : list of SearchedScene
    tests : mapping of str to list of SearchedScene
    longest : int
        Fixations at which a path ends.
    digest : str
        What makes them these.
    """

    training: list[SearchedScene]
    development: list[SearchedScene]
    tests: Mapping[str, list[SearchedScene]]
    longest: int
    digest: str


def searches_of(options: OATOptions, size: tuple[int, int]) -> Searches:
    """Drawn shelves, or the scenes of a file, crops of ``size``. Raises ``InputError``, see ``read_recorded``."""
    seed = options.compute.seed
    if options.data != SHELVES:
        path = Path(options.data)
        training, development, test = divided(read_recorded(path, size), seed)
        longest = max(len(own) for scene in training for own in scene.paths)
        return Searches(training, development, {"test": test}, longest, sha256(path))
    training = searched_scenes(TRAINING, seed, options.scenes, options.searchers, size)
    development = searched_scenes(DEVELOPMENT, seed, -(-options.judged // 2), options.searchers, size)
    tests = {
        name: searched_scenes(purpose, seed, options.judged, options.searchers, size) for name, purpose in SETS.items()
    }
    return Searches(training, development, tests, LONGEST, "drawn shelves")


def judged(
    model: SearchModel, name: str, test: Sequence[SearchedScene], scenes: Searches, options: OATOptions
) -> list[Row]:  # fmt: skip
    """The lines of one test: the network, another searcher, and each sampler."""
    seed = options.compute.seed
    drawn = {OWN: sampled(model, test, options.samples, seed)}
    rng = np.random.default_rng((seed, 11))
    if others := another(rng, test, options.samples):
        drawn[CEILING] = others
    for other, cue in BASELINES.items():
        strength = strength_of(cue, scenes.training)
        drawn[other] = [
            beside(scene, sample(rng, cue, strength, scene, options.samples, model.shape.longest)) for scene in test
        ]
    rows: list[Row] = []
    for sampler, paths in drawn.items():
        found = compare(paths, longest=model.shape.longest, pairs=PAIRS, compat=options.compat)
        known: dict[str, float] = forced(model.net, test) if sampler == OWN else {}
        if sampler == CEILING:
            known = ruled(test)
        rows.append({"test": name, "sampler": sampler, **found, **known})
    return rows


def another(rng: np.random.Generator, scenes: Sequence[SearchedScene], count: int) -> list[ScenePaths]:
    """What no network can be expected to surpass: so many paths of the rule; of recorded paths each against the others
    of its scene, where there are several."""
    found = []
    for scene in scenes:
        target = scene.objects.target
        if scene.likeness is not None:
            drawn = [search(rng, scene.cells, scene.likeness, target) for _ in range(count)]
            found.append(beside(scene, drawn))
        elif len(scene.paths) > 1:
            for number, path in enumerate(scene.paths):
                rest = (*scene.paths[:number], *scene.paths[number + 1 :])
                # without a target: over all of them both sides have the same behaviour, and a Delta of 0 says nothing
                found.append(replace(beside(replace(scene, paths=rest), [path]), target=None))
    return found


def ruled(scenes: Sequence[SearchedScene]) -> dict[str, float]:
    """``sim`` and ``nll`` of the rule itself: that of a network that knew it. Of recorded paths none is known."""
    chance = [
        chances(scene.cells, scene.likeness, scene.objects.target, path)
        for scene in scenes if scene.likeness is not None for path in scene.paths
    ]  # fmt: skip
    if not chance:
        return {}
    found = np.concatenate(chance)
    return {"sim": float(found.mean()), "nll": float(-np.log(found).mean())}


def finished(run: RecipeRun, model: SearchModel, scenes: Searches, rows: Sequence[Row], outcome: Outcome) -> Report:
    """The model written with its figures, the card, the report."""
    own = {row["test"]: row for row in rows if row["sampler"] == OWN}
    metrics = {f"{test}_{name}": float(row[name]) for test, row in own.items() for name in (*SHOWN, "sim", "nll")}
    compared = {
        "scenes": {"training": len(scenes.training), **{name: len(test) for name, test in scenes.tests.items()}},
        "shared_with_training": {name: shared(test, scenes.training) for name, test in scenes.tests.items()},
    }
    notices = tuple(
        f"{count} of the {len(scenes.tests[name])} scenes of the test show a picture and a target of training"
        for name, count in compared["shared_with_training"].items() if count
    )  # fmt: skip
    if all(row["sampler"] != CEILING for row in rows):
        notices += ("no scene of the test has two paths: how alike people are is not known",)
    facts = run.facts(metrics=plain(metrics), seconds=round(outcome.seconds), **compared)
    run.save(lambda path: write_model(path, model.net, model.shape, facts), lambda size: card(facts, rows, size, model))
    short = [{name: row[name] for name in ("test", "sampler", *SHOWN[:2], "delta")} for row in rows]
    return run.report(
        outcome, data=run.options.data, details=compared, metrics=metrics, notices=notices,
        sections=(Table("samplers", rows, title="Paths against those of the searchers", short=short),),
    )  # fmt: skip


def card(facts: Mapping[str, Any], rows: Sequence[Row], size: int, model: SearchModel) -> str:
    """The model card, Markdown."""
    shown = [{name: row.get(name) for name in ("test", "sampler", *SHOWN, "sim", "nll")} for row in rows]
    count = sum(parameter.numel() for parameter in model.net.parameters())
    return "\n".join([
        "# An object-level attention transformer of visual search", "",
        "It predicts in which order the objects of a picture are looked at until a target is found (arXiv 2407.13335).",
        "", f"- {count} parameters, {size} bytes, float16; `attn probe scanpath PICTURE --model FILE` draws its paths.",
        f"- Data: {_data(facts)}",
        f"- Scenes of tests that are also in training: {facts['shared_with_training']}.",
        f"- Command: `attn train oat -o DIR`; options: {facts['options']}",
        f"- attn {facts['attn']}, torch {facts['torch']}, {facts['seconds']} s of training.", "",
        *_tests(facts), "",
        *markdown_table(shown, digits=4),
    ])  # fmt: skip


def _data(facts: Mapping[str, Any]) -> str:
    count = facts["scenes"]["training"]
    if facts["options"]["data"] != SHELVES:
        named = Path(facts["options"]["data"]).name
        return f"people's paths over {count} scenes of `{named}`. Its terms apply to what is made from it."
    return (
        f"{count} shelves that the recipe draws, and the paths of a simulated searcher whose rule is in\n"
        "  `core/train/oat/searcher.py`: it has never seen a person's gaze. MIT licence, as attn."
    )


def _tests(facts: Mapping[str, Any]) -> list[str]:
    if facts["options"]["data"] != SHELVES:
        return ["Another searcher: each recorded path against the others of its scene."]
    return [
        "known: shelves as in training; layouts: other numbers of rows and columns; targets: hues that no cover of",
        "training has. Another searcher is the rule itself with other numbers.",
    ]
