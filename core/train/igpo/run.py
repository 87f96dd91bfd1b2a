"""`attn train igpo`: stage 1, stage 2 with each method from the same start, and their table."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...fit.frame import RecipeRun, run_of
from ...fit.loop import Outcome, Plan, joined
from ...io.atomic import write_text
from ...nets.masked_diffusion import MaskedDiffusionTransformer
from ...progress import Watcher
from ...report.model import Report
from ...report.sections import Curve, Row
from .export import card, write_small
from .hints import planting_report, rescued_passages
from .options import IGPOOptions, complete_options
from .parts import HintOptions, ObjectiveOptions, SamplingOptions, filled
from .rollout import Sampler
from .stages import COUNTS, PolicyRecipe, TraceRecipe, accuracy
from .start import Start, start_of

EVALUATIONS = 4
"""Of stage 1."""
PLANTED = "planted.jsonl"
SFT = "sft"


def train_igpo(
    options: IGPOOptions, *, watcher: Watcher | None = None, arguments: Mapping[str, Any] | None = None
) -> Report:
    """Train a masked diffusion language model by IGPO, beside what it is compared to.

    Parameters
    ----------
    options : IGPOOptions
    watcher : Watcher, optional
        Told step and steps of all stages; None: a bar on a terminal.
    arguments : mapping, optional
        What the report records of the call beside the options.

    Returns
    -------
    Report with one item: accuracy of stage 1 and of each method on held-out questions, files, warnings.

    Raises
    ------
    UsageError, InputError
        If options, data, model or folder cannot be used, or the verifier fails.
    """
    options = complete_options(options)
    with run_of("igpo", options, watcher=watcher, arguments=arguments, names=("loss", "right")) as run:
        run.alone("its completions are drawn whole")
        start = start_of(options, run.device)
        if options.dry_run is not None:
            return dry_run(run, options, start)
        outcomes: dict[str, Outcome] = {}
        results: dict[str, dict[str, Tensor]] = {}
        if options.sft_steps:
            outcomes[SFT] = first_stage(run, options, start)
        policy = filled(start.policy)
        policy.start = policy.weights()
        for number, method in enumerate(filled(options.methods)):
            if any(outcome.interrupted for outcome in outcomes.values()):
                break
            policy.load(policy.start)
            outcomes[method] = second_stage(run, options, start, number)
            results[method] = policy.weights()
        if any(outcome.interrupted for outcome in outcomes.values()):
            return run.report(joined(outcomes, {}), data=start.data, notices=start.notices)
        return finished(run, options, start, outcomes, results)


def dry_run(run: RecipeRun, options: IGPOOptions, start: Start) -> Report:
    """Hints of the first questions; nothing is trained."""
    questions = start.task.shown(filled(options.dry_run))
    passages, rows = planting_report(start.task, questions, options)
    place = run.output / PLANTED
    run.output.mkdir(parents=True, exist_ok=True)
    write_text(place, "".join(json.dumps(row) + "\n" for row in rows))
    table = [{name: value for name, value in row.items() if name not in ("hints", "positions")} for row in rows]
    empty = sum(row["planted_tokens"] == 0 for row in rows)
    notices = (*start.notices, *([f"{empty} of {len(rows)} plantings hold no hint"] if empty else []))
    return run.report(
        Outcome({}, (), 0.0, ()), data=start.data, files={"planted": place}, sections=passages, comparison=table,
        notices=notices,
    )  # fmt: skip


def progress_of(run: RecipeRun, options: IGPOOptions, done: int) -> Callable[[int, int, Mapping[str, float]], None]:
    """Tells the run's steps, ``done`` of which were other stages'."""
    each = filled(options.steps) * filled(options.objective.inner)
    steps = filled(options.sft_steps) + len(filled(options.methods)) * each

    def tell(step: int, _: int, metrics: Mapping[str, float]) -> None:
        run.progress(done + step, steps, metrics)

    return tell


def first_stage(run: RecipeRun, options: IGPOOptions, start: Start) -> Outcome:
    """Supervised fine-tuning; afterwards the policy holds its best weights."""
    steps, prompt = filled(options.sft_steps), len(start.task.development[0].prompt)
    # as many tokens, whatever the length of the traces
    count = max(
        1, filled(options.sft_batch) * (prompt + filled(options.sampling.completion)) // (prompt + start.length)
    )
    recipe = TraceRecipe(filled(start.policy), start.task, start.length, count, options.compute.seed, run.device)
    plan = Plan(
        steps=steps, warmup=min(50, steps // 10), learning_rate=filled(options.sft_learning_rate), average=0.0,
        evaluate_every=-(-steps // EVALUATIONS),
    )  # fmt: skip
    own = replace(  # what stage 2 is told makes no other stage 1
        options, methods=None, hints=HintOptions(), objective=ObjectiveOptions(),
        sampling=SamplingOptions(completion=options.sampling.completion),
    )  # fmt: skip
    return run.fit(
        recipe, plan, identity={**start.identity, "stage": SFT}, folder=run.output / SFT, options=own,
        progress=progress_of(run, options, 0),
    )  # fmt: skip


def second_stage(run: RecipeRun, options: IGPOOptions, start: Start, number: int) -> Outcome:
    """Policy optimisation by a method; afterwards the policy holds its best weights."""
    policy = filled(start.policy)
    objective, method = options.objective, filled(options.methods)[number]
    inner, rate, decay = filled(objective.inner), filled(objective.learning_rate), filled(objective.weight_decay)
    steps = filled(options.steps) * inner
    recipe = PolicyRecipe(policy, start.task, method, options, run.device)
    plan = Plan(
        steps=steps, warmup=objective.warmup, learning_rate=rate, stable=1.0, average=0.0,
        weight_decay=decay, clip=filled(objective.clip), evaluate_every=options.evaluate_every * inner,
    )  # fmt: skip
    optimizer = torch.optim.AdamW(policy.trained.parameters(), lr=rate, weight_decay=decay, betas=(0.9, 0.99))
    return run.fit(
        recipe, plan, identity={**start.identity, "stage": method},
        folder=run.output / ("" if number == 0 else method), optimizer=optimizer,
        progress=progress_of(run, options, filled(options.sft_steps) + number * steps),
    )  # fmt: skip


def finished(
    run: RecipeRun, options: IGPOOptions, start: Start, outcomes: Mapping[str, Outcome],
    results: Mapping[str, dict[str, Tensor]],
) -> Report:  # fmt: skip
    """Every stage tested on held-out questions; the first method's model written; and the report."""
    policy, task, sampler = filled(start.policy), start.task, Sampler.of(options)
    policy.net.eval()
    rows: list[Row] = []
    metrics: dict[str, float] = {}
    for name, weights in {"start": policy.start, **results}.items():
        policy.load(weights)
        found = accuracy(policy, task, task.test, sampler, run.device)
        shares = {kind: found[kind] for kind in task.kinds}
        told = groups_of(outcomes[name]) if name in outcomes else {}
        rows.append({"policy": name, **shares, **told})
        metrics |= {f"{name}_{what}": value for what, value in (shares | told).items() if value is not None}
        if name == "start" and start.length > sampler.completion:  # at the length of its traces
            longer = replace(sampler, completion=start.length, block=start.length, steps=start.length // 2)
            own = accuracy(policy, task, task.test, longer, run.device)
            metrics |= {f"start_{kind}_at_own_length": own[kind] for kind in task.kinds}
    lines = {m: [_share(row, "all_wrong") for row in outcomes[m].history] for m in results}
    first = next(iter(results))
    steps = [row["step"] / filled(options.objective.inner) for row in outcomes[first].history]
    sections = (Curve("all_wrong_groups", lines, xs=steps, detail=True),)
    policy.load(policy.start)
    passages = rescued_passages(policy, task, options, run.device)
    policy.load(results[first])
    outcome = joined(outcomes, {"right": outcomes[first].best["right"]})
    facts = run.facts(
        method=first, data=start.data, metrics=metrics, judged=options.judged, seconds=round(outcome.seconds),
        notices=list(start.notices),
    )  # fmt: skip

    def write(path: Path) -> None:
        if start.model is not None:
            start.model.write(path, facts)
        elif isinstance(policy.net, MaskedDiffusionTransformer):
            write_small(path, policy.net, facts)

    run.save(write, lambda size: card(facts, rows, size, small=start.model is None))
    return run.report(
        outcome, data=start.data, metrics=metrics, comparison=rows, sections=(*sections, *passages),
        notices=start.notices,
    )  # fmt: skip


def groups_of(outcome: Outcome) -> dict[str, float]:
    """All of a run's groups: how many, shares that were all wrong, and of those the rescued; and samples drawn."""
    total = {name: sum(row.get(name, 0.0) for row in outcome.history) for name in COUNTS}
    rescued = total["rescued"] / total["all_wrong"] if total["all_wrong"] else float("nan")
    return {
        "groups": total["groups"], "all_wrong": total["all_wrong"] / max(1, total["groups"]), "rescued": rescued,
        "samples": total["samples"],
    }  # fmt: skip


def _share(row: Mapping[str, float], name: str) -> float:
    return row[name] / row["groups"] if row.get("groups") else float("nan")
