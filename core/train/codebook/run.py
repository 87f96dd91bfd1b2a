"""`attn train codebook`: three agents that learn to find things, and their table."""

from __future__ import annotations

import importlib.metadata
import typing
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ...fit.frame import MODEL, RecipeRun, run_of
from ...fit.loop import Outcome, Plan, joined
from ...probe.codebook.agent import Agent, AgentShape, Bottleneck, SavedAgent, read_agent, write_agent
from ...probe.codebook.data import (
    ADAPTING,
    DEVELOPMENT,
    TARGETS,
    TEST,
    TRAINING,
    Episodes,
    check_disjoint,
    draw_episodes,
    seen_in,
)
from ...probe.codebook.rollout import TOGETHER, at_random, greedy, play, scores
from ...probe.codebook.views import ViewFeatures, encoder_of
from ...probe.codebook.world import World
from ...progress import Watcher
from ...report.model import Report
from ...report.sections import Curve, Row
from ...report.write import markdown_table
from .options import CodebookOptions
from .recipe import CloningRecipe, School

BOTTLENECKS: tuple[Bottleneck, ...] = typing.get_args(Bottleneck)
"""The first is the run's own."""
OWN = BOTTLENECKS[0]
HALF = 0.5
"""Success whose first evaluation is told."""
FEWER = 8
"""Demonstrations of training over those of adapting."""


class Lessons(typing.NamedTuple):
    """All episodes of a run: in the world's colours, in others, and of the tests."""

    school: School
    other: School
    test: Episodes
    targets: Episodes

    def compared(self) -> dict[str, Any]:
        """How many seeds and layouts were compared, what was found in both, and hashes of all layouts."""
        sets = {
            "training": self.school.training, "development": self.school.development, "test": self.test,
            "targets": self.targets, "adapting": self.other.training,
        }  # fmt: skip
        judged = [self.school.development, self.test, self.targets]
        return {
            "episodes": {name: len(one.played) for name, one in sets.items()},
            "layouts": {name: len(one.layouts()) for name, one in sets.items()},
            "sha256": {name: one.digest() for name, one in sets.items()},
            "shared_with_training": check_disjoint(self.school.training, judged),
            "shared_with_adapting": check_disjoint(self.other.training, judged),
        }


def train_codebook(
    options: CodebookOptions, *, watcher: Watcher | None = None, arguments: Mapping[str, Any] | None = None
) -> Report:
    """Train agents with a codebook, without a bottleneck and with a plain one, by behaviour cloning.

    Parameters
    ----------
    options : CodebookOptions
    watcher : Watcher, optional
        Told step and steps of all agents; None: a bar on a terminal.
    arguments : mapping, optional
        What the report records of the call beside the options.

    Returns
    -------
    Report with one item: success of each agent in each test, what was compared by hash, files, warnings.

    Raises
    ------
    UsageError
        If minigrid is not installed, has no such environment, or its missions are of another kind; if there is no such
        encoder, or the folder cannot be used.
    """
    with run_of("codebook", options, watcher=watcher, arguments=arguments, names=("loss", "success")) as run:
        run.alone("its batches are drawn whole")
        lessons = lessons_of(options, run.device)
        shape = AgentShape(
            *lessons.school.views.shape, options.hidden, options.compressed, OWN, options.codes, options.code_dim,
            options.dropout, options.index, options.kind, options.topk,
        )  # fmt: skip
        plan = Plan(
            steps=options.steps, warmup=options.warmup, learning_rate=options.learning_rate,
            weight_decay=options.weight_decay, evaluate_every=options.evaluate_every, average=0.98,
        )  # fmt: skip
        identity = {
            "encoder": lessons.school.views.encoder.fingerprint, "episodes": lessons.school.training.digest(),
            "minigrid": importlib.metadata.version("minigrid"),
        }  # fmt: skip
        rows: list[Row] = []
        outcomes: dict[str, Outcome] = {}
        agents: dict[Bottleneck, SavedAgent] = {}
        total = len(BOTTLENECKS) * (options.steps + options.adapt)
        for number, bottleneck in enumerate(BOTTLENECKS):
            done = number * (options.steps + options.adapt)
            torch.manual_seed(options.compute.seed)
            agent = Agent(replace(shape, bottleneck=bottleneck)).to(run.device)
            folder = run.output / ("" if bottleneck == OWN else bottleneck)
            outcomes[bottleneck] = fitted(
                run, agent, lessons.school, plan, identity | {"bottleneck": bottleneck}, folder, done, total
            )
            if outcomes[bottleneck].interrupted:
                return run.report(joined(outcomes, {}), data=options.environment)
            agents[bottleneck] = saved = written(run, agent, lessons, folder / MODEL, {})
            row = {"bottleneck": bottleneck, **judge(saved.agent, lessons), "half": half(outcomes[bottleneck])}
            if options.adapt:
                agent.adapting()
                short = replace(plan, steps=options.adapt, warmup=min(options.warmup, options.adapt - 1))
                name = f"{bottleneck}, adapted"
                outcomes[name] = fitted(
                    run, agent, lessons.other, short, identity | {"bottleneck": name}, folder / "adapted",
                    done + options.steps, total,
                )  # fmt: skip
                if outcomes[name].interrupted:
                    return run.report(joined(outcomes, {}), data=options.environment)
                row["adapted"] = test(agent.eval(), lessons.other.views, lessons)["success"]
            rows.append(row)
        chance = scores(play(lessons.school.worlds, lessons.test.cases, at_random(options.compute.seed)))
        rows.append({"bottleneck": "random actions", **{name: chance[name] for name in SHOWN}})
        return finished(run, lessons, agents[OWN], rows, outcomes)


SHOWN = ("success", "spl", "sel", "reward")


def lessons_of(options: CodebookOptions, device: torch.device) -> Lessons:
    """The tests' episodes first, then those of training, apart from them."""
    world, seed, judged = World(options.environment), options.compute.seed, options.judged
    views = ViewFeatures(encoder_of(options.encoder, device), device)
    other = ViewFeatures(views.encoder, device, other_colours=True)
    test = draw_episodes(world, TEST, seed, judged, held_out=False)
    targets = draw_episodes(world, TARGETS, seed, judged, held_out=True)
    apart = test.layouts() | targets.layouts()
    development = draw_episodes(world, DEVELOPMENT, seed, -(-judged // 2), held_out=False, apart=apart, views=views)
    apart |= development.layouts()
    training = draw_episodes(world, TRAINING, seed, options.demonstrations, held_out=False, apart=apart, views=views)
    worlds = [World(options.environment) for _ in range(min(TOGETHER, judged))]
    school = School(views, training, development, worlds)
    if not options.adapt:
        return Lessons(school, replace(school, views=other), test, targets)
    again = Episodes(tuple(seen_in(world, one, other) for one in development.played))
    count = max(1, options.demonstrations // FEWER)
    fewer = draw_episodes(world, ADAPTING, seed, count, held_out=False, apart=apart, views=other)
    return Lessons(school, School(other, fewer, again, worlds), test, targets)


def fitted(
    run: RecipeRun, agent: Agent, school: School, plan: Plan, identity: Mapping[str, Any], folder: Path, done: int,
    total: int,
) -> Outcome:  # fmt: skip
    """``RecipeRun.fit`` of one agent, told as a part of the run's ``total`` steps, ``done`` of which are behind it."""

    def tell(step: int, _: int, metrics: Mapping[str, float]) -> None:
        run.progress(done + step, total, metrics)

    options = run.options
    recipe = CloningRecipe(agent, school, options.batch, options.compute.seed)
    return run.fit(recipe, plan, identity=identity, folder=folder, progress=tell)


def half(outcome: Outcome) -> float | None:
    """Steps to the first evaluation of which half of the episodes succeeded; None where there is none."""
    return next((row["step"] for row in outcome.history if row["success"] >= HALF), None)


def test(agent: Agent, views: ViewFeatures, lessons: Lessons) -> dict[str, float]:
    """``scores`` in rooms that no agent was ever in."""
    return scores(play(lessons.school.worlds, lessons.test.cases, greedy(agent, views)))


def judge(agent: Agent, lessons: Lessons) -> dict[str, float]:
    """An agent's line of the table, but for what it is after adapting."""
    found = test(agent, lessons.school.views, lessons)
    targets = scores(play(lessons.school.worlds, lessons.targets.cases, greedy(agent, lessons.school.views)))
    return {
        **{name: found[name] for name in SHOWN}, "targets": targets["success"], "targets_spl": targets["spl"],
        "colours": test(agent, lessons.other.views, lessons)["success"],
    }  # fmt: skip


def written(run: RecipeRun, agent: Agent, lessons: Lessons, path: Path, facts: Mapping[str, Any]) -> SavedAgent:
    """The agent's file, and what it holds, on the run's device: what is tested is what is kept."""
    options = run.options
    encoder = {"name": options.encoder, "fingerprint": lessons.school.views.encoder.fingerprint}
    write_agent(path, agent, encoder, run.facts(**facts))
    saved = read_agent(path)
    saved.agent.to(run.device)
    return saved


def finished(
    run: RecipeRun, lessons: Lessons, own: SavedAgent, rows: Sequence[Row], outcomes: Mapping[str, Outcome]
) -> Report:
    """The run's own agent written with its figures, the card, the report."""
    options = run.options
    metrics = {
        f"{row['bottleneck'].partition(' ')[0]}_{name}": float(value)
        for row in rows for name, value in row.items() if name != "bottleneck" and value is not None
    }  # fmt: skip
    outcome = joined(outcomes, {"success": rows[0]["success"]})
    facts = {"metrics": metrics, "seconds": round(outcome.seconds), **lessons.compared()}
    agent = own.agent

    def write(path: Path) -> None:
        written(run, agent, lessons, path, facts)

    run.save(write, lambda size: card(run.facts(**facts), rows, size))
    lines: dict[str, list[float]] = {name: [row["success"] for row in outcomes[name].history] for name in BOTTLENECKS}
    xs = [int(row["step"]) for row in outcomes[OWN].history]
    curve = Curve("success_by_step", lines, xs=xs, xlabel="step", detail=True)
    left = {one: getattr(lessons, one).left_out for one in ("test", "targets")} | {
        "training": lessons.school.training.left_out
    }
    notices = tuple(f"{name}: {text}" for name, one in left.items() for text in one.notices())
    return run.report(
        outcome, data=options.environment, details=lessons.compared(), metrics=metrics, comparison=rows,
        sections=(curve,), notices=notices,
    )  # fmt: skip


def card(facts: Mapping[str, Any], rows: Sequence[Row], size: int) -> str:
    """The model card, Markdown."""
    episodes, options = facts["episodes"], facts["options"]
    return "\n".join([
        "# An agent with a codebook", "",
        "It looks for things in drawn rooms; what it sees passes a bottleneck of a few codes (arXiv 2311.04193).", "",
        f"- {size} bytes, float16; `attn probe codebook FILE` shows what its codes are used for.",
        f"- World: {options['environment']}; views read by {options['encoder']}, frozen; behaviour cloning of the "
        "environment's planner, no reinforcement learning. MIT licence, as attn.",
        f"- {episodes['training']} episodes to learn from, {episodes['test']} of each test; seeds and layouts shared: "
        f"{facts['shared_with_training']['seeds']} and {facts['shared_with_training']['layouts']}.",
        f"- Options: {options}",
        f"- attn {facts['attn']}, torch {facts['torch']}, {facts['seconds']} s for all agents.", "",
        "success: in rooms never seen; spl, sel: weighted by how directly; targets: things never asked for in",
        "training; colours: drawn in other colours; adapted: after adapting to them; half: steps to the first",
        "evaluation of which half succeeded.", "",
        *markdown_table(rows, digits=3),
    ])  # fmt: skip
