"""`attn train flux-router`: a small model, routers for every target, their table beside static choices, and a map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...fit.frame import MODEL, RecipeRun, run_of
from ...fit.loop import Outcome, Plan, joined
from ...models.language import small_language, word_tokeniser, write_language
from ...progress import Watcher
from ...report.model import Report
from ...report.sections import Row, Table
from ...report.write import markdown_table
from .options import RouterOptions
from .recipe import TEST, DenseRecipe, RouterRecipe, judge, optimizer
from .routing import LayerRouters, RouterShape, write_routers
from .tasks import KINDS, WORDS, Kind

LANGUAGE_RATE = 2e-3
LONGEST = 4096
"""Tokens that the small model says it reads."""
RANDOM = 3
"""Draws of random layers, whose mean is told."""


def train_flux_router(
    options: RouterOptions, *, watcher: Watcher | None = None, arguments: Mapping[str, Any] | None = None
) -> Report:
    """Train a small language model, then routers of its layers for every target share.

    Parameters
    ----------
    options : RouterOptions
    watcher : Watcher, optional
        Told step and steps of all stages; None: a bar on a terminal.
    arguments : mapping, optional
        What the report records of the call beside the options.

    Returns
    -------
    Report with one item: accuracy of every choice of layers, a map of routes, files, warnings.

    Raises
    ------
    UsageError
        If the folder cannot be used.
    """
    with run_of("flux-router", options, watcher=watcher, arguments=arguments) as run:
        run.alone("its prompts are drawn whole")
        outcomes: dict[str, Outcome] = {}
        language = _language(run, options, outcomes)
        if outcomes["lm"].interrupted:
            return run.report(joined(outcomes, {}), data="drawn prompts")
        language.requires_grad_(False).eval()
        write_language(language, word_tokeniser(WORDS), run.output / "lm" / MODEL)
        shape = RouterShape(
            options.depth, options.width // options.heads, options.pool_size, options.sink, options.local,
            options.block_size,
        )  # fmt: skip
        trained: dict[float, LayerRouters] = {}
        for target in options.targets:
            torch.manual_seed(options.compute.seed)
            routers = LayerRouters(shape, len(KINDS)).to(run.device)
            plan = Plan(
                steps=options.steps, warmup=options.warmup, learning_rate=options.learning_rate,
                weight_decay=options.weight_decay, average=0.0, clip=5.0, evaluate_every=options.evaluate_every,
            )  # fmt: skip
            name = f"target-{target:g}"
            outcomes[name] = _fit(
                run, options, RouterRecipe(language, routers, options, target), plan, name, outcomes,
                "" if target == options.targets[0] else name, optimizer(routers, options),
            )  # fmt: skip
            if outcomes[name].interrupted:
                return run.report(joined(outcomes, {}), data="drawn prompts")
            trained[target] = routers.eval()
        return _finished(run, options, language, shape, trained, outcomes)


def _fit(
    run: RecipeRun, options: RouterOptions, recipe: Any, plan: Plan, name: str, before: Mapping[str, Outcome],
    folder: str, own: torch.optim.Optimizer | None = None,
) -> Outcome:  # fmt: skip
    done = options.lm_steps + (len(before) - 1) * options.steps if before else 0

    def tell(step: int, _: int, metrics: Mapping[str, float]) -> None:
        run.progress(done + step, options.lm_steps + len(options.targets) * options.steps, metrics)

    # the routers are those of the model as it was after this many steps
    stage = {"stage": name} | ({"after": options.lm_steps} if before else {})
    return run.fit(recipe, plan, identity=stage, folder=run.output / folder, progress=tell, optimizer=own)


def _language(run: RecipeRun, options: RouterOptions, outcomes: dict[str, Outcome]) -> Any:
    """The small model, trained with dense attention."""
    torch.manual_seed(options.compute.seed)
    model = small_language(
        len(WORDS), width=options.width, layers=options.depth, heads=options.heads, positions=LONGEST
    ).to(run.device)  # fmt: skip
    plan = Plan(
        steps=options.lm_steps, warmup=options.warmup, learning_rate=LANGUAGE_RATE, weight_decay=0.01, average=0.98,
        evaluate_every=options.evaluate_every,
    )  # fmt: skip
    outcomes["lm"] = _fit(run, options, DenseRecipe(model, options), plan, "lm", {}, "lm")
    return model


def static_choices(layers: int, sparse: int, seed: int) -> dict[str, list[list[bool]]]:
    """Routes that do not depend on the prompt, with ``sparse`` sparse layers: name -> for each layer, is it full."""
    rng = np.random.default_rng((seed, sparse))
    drawn = [[bool(n >= sparse) for n in rng.permutation(layers)] for _ in range(RANDOM)]
    first = [n >= sparse for n in range(layers)]
    return {"random layers": drawn, "first layers": [first], "last layers": [first[::-1]]}


def _finished(
    run: RecipeRun, options: RouterOptions, language: Any, shape: RouterShape,
    trained: Mapping[float, LayerRouters], outcomes: Mapping[str, Outcome],
) -> Report:  # fmt: skip
    """Every choice of layers tested; the first target's routers written; and the report."""

    @cache
    def static(routes: tuple[bool, ...]) -> Mapping[Kind, tuple[float, Tensor]]:  # targets may share them
        return judge(language, None, shape, options, TEST, options.judged, fixed=routes)

    def row(
        choice: str, target: float, results: Sequence[Mapping[Kind, tuple[float, Tensor]]]
    ) -> dict[str, float | str]:
        told: dict[str, float | str] = {"sparse layers": choice, "target": target}
        for kind in KINDS:
            told[kind] = sum(found[kind][0] for found in results) / len(results)
            told[f"sparse_{kind}"] = sum(float(found[kind][1].mean()) for found in results) / len(results)
        return told

    layers = shape.layers
    rows: list[Row] = [
        row("none", 0.0, [static((True,) * layers)]), row("all", 1.0, [static((False,) * layers)]),
    ]  # fmt: skip
    map_rows: list[Row] = []
    for target, routers in trained.items():
        found = judge(language, routers, shape, options, TEST, options.judged)
        mine = row("routed", target, [found])
        rows.append(mine)
        for kind in KINDS:
            shares = {f"layer {n}": float(share) for n, share in enumerate(found[kind][1])}
            map_rows.append({"target": target, "prompts": kind, **shares})
        # as many sparse layers as the routers chose on needles: the nearest whole number
        sparse = round(float(mine["sparse_needle"]) * layers)
        for name, routes in static_choices(layers, sparse, options.compute.seed).items():
            rows.append(row(name, target, [static(tuple(one)) for one in routes]))
    first = next(one for one in rows if one["sparse layers"] == "routed")
    names = [name for kind in KINDS for name in (kind, f"sparse_{kind}")]
    metrics = {name: float(first[name]) for name in names}
    own = outcomes[f"target-{options.targets[0]:g}"]
    outcome = joined(outcomes, {**own.best, **metrics})
    facts = run.facts(metrics=metrics, seconds=round(outcome.seconds))
    routers = trained[options.targets[0]]
    run.save(lambda path: write_routers(path, routers, facts), lambda size: card(facts, rows, map_rows, size))
    title = "share of prompts for which a layer was sparse"
    return run.report(
        outcome, data="drawn prompts", metrics=metrics, comparison=rows, sections=(Table("map", map_rows, title=title),)
    )  # fmt: skip


def card(facts: Mapping[str, Any], rows: Sequence[Row], map_rows: Sequence[Row], size: int) -> str:
    """The model card, Markdown."""
    return "\n".join([
        "# Layer routers of a small language model", "",
        "They send whole layers of the model in lm/ to full or to sparse attention, once per prompt.", "",
        f"- {size} bytes, float16, of the first target; trained on prompts that the recipe draws.",
        f"- Options: {facts['options']}",
        f"- attn {facts['attn']}, torch {facts['torch']}, {facts['seconds']} s in all.", "",
        "To use them:", "", "```python",
        "from transformers import AutoModelForCausalLM",
        "from attn.core.train.flux_router.routing import read_routers, routed", "",
        'model = AutoModelForCausalLM.from_pretrained("lm")',
        'routers = read_routers("model.safetensors")',
        "with routed(model, routers, routers.shape) as routes:",
        "    model.generate(tokens)  # routes.full: of each layer, 1 full or 0 sparse", "```", "",
        "Accuracy on either kind of prompt, and the share of its layers that were sparse. Measured before the weights",
        "were rounded to float16.", "", *markdown_table(rows, digits=3),
        "Share of prompts for which a layer was sparse:", "", *markdown_table(map_rows, digits=3),
    ])  # fmt: skip
