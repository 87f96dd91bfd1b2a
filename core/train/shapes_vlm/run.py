"""`attn train shapes-vlm`: from nothing to a vision-language model with its card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ...errors import UsageError
from ...fit.frame import RecipeRun, run_of
from ...fit.loop import Outcome, Plan
from ...progress import Watcher
from ...prune.shapes.sets import TEST
from ...report.model import Report
from .export import rounded, write_model
from .network import ShapesNetwork
from .options import ShapesVLMOptions
from .recipe import AnswerRecipe, VisionRecipe, accuracies, optimizer

VISION = "vision"
"""Folder of the first stage inside that of the run."""
VISION_RATE, VISION_MATRIX_RATE = 1.5e-3, 1.2e-2
"""Highest rates of AdamW and Muon in the first stage."""


def train_shapes_vlm(
    options: ShapesVLMOptions, *, watcher: Watcher | None = None, arguments: Mapping[str, Any] | None = None
) -> Report:
    """Train a small vision-language model on drawn scenes.

    Parameters
    ----------
    options : ShapesVLMOptions
    watcher : Watcher, optional
        Told step and steps of both stages; None: a bar on a terminal.
    arguments : mapping, optional
        What the report records of the call beside the options.

    Returns
    -------
    Report with one item: accuracy by task on scenes of the test seed, files, warnings.

    Raises
    ------
    UsageError
        If the folder cannot be used, or torch has no Muon.
    """
    if not hasattr(torch.optim, "Muon"):
        raise UsageError(f"shapes-vlm needs Muon, which torch has from 2.9; this is {torch.__version__}.")
    with run_of("shapes-vlm", options, watcher=watcher, arguments=arguments, names=("loss", "accuracy")) as run:
        run.alone("its batches are drawn whole")
        torch.manual_seed(options.compute.seed)
        network = ShapesNetwork(options.width, options.vision_layers, options.layers, options.heads).to(run.device)
        outcome = _stages(run, network, options)
        metrics: dict[str, float] = {}
        if outcome.best and not outcome.interrupted:
            rounded(network)
            network.eval()
            metrics = accuracies(network, 10 * options.judged, TEST)
            facts = run.facts(
                metrics=metrics, judged=10 * options.judged, seconds=round(outcome.seconds),
                parameters=sum(parameter.numel() for parameter in network.llava.parameters()),
            )  # fmt: skip
            run.save(lambda path: write_model(network.llava, path), lambda size: card(facts, size))
        return run.report(outcome, data="drawn scenes", metrics=metrics)


def _stages(run: RecipeRun, network: ShapesNetwork, options: ShapesVLMOptions) -> Outcome:
    """Both stages; one that is finished already is read, not repeated."""
    total = options.vision_steps + options.steps
    seed = options.compute.seed
    plan = Plan(
        steps=options.vision_steps, warmup=options.warmup, learning_rate=VISION_RATE,
        evaluate_every=options.evaluate_every, average=0.0, clip=2.0, stable=0.3, floor=0.1,
    )  # fmt: skip
    factor = VISION_MATRIX_RATE / VISION_RATE
    first = run.fit(
        VisionRecipe(network, seed, options.batch, run.device), plan, identity={"stage": VISION},
        folder=run.output / VISION, optimizer=optimizer(network, factor),
        progress=lambda step, _, metrics: run.progress(step, total, metrics),
    )  # fmt: skip
    if first.interrupted:
        return first
    plan = Plan(
        steps=options.steps, warmup=options.warmup, learning_rate=options.learning_rate,
        evaluate_every=options.evaluate_every, average=0.0, clip=2.0, stable=0.5, floor=0.02,
    )  # fmt: skip
    second = run.fit(
        AnswerRecipe(network, seed, options.batch, options.judged, run.device), plan, identity={"stage": "answers"},
        optimizer=optimizer(network, options.matrix_rate / plan.learning_rate),
        progress=lambda step, _, metrics: run.progress(options.vision_steps + step, total, metrics),
    )  # fmt: skip
    warnings = (*(f"image tower: {text}" for text in first.warnings), *second.warnings)
    return Outcome(second.best, second.history, first.seconds + second.seconds, warnings, second.interrupted)


def card(facts: Mapping[str, Any], size: int) -> str:
    """The model card, Markdown."""
    options = facts["options"]
    scores = ", ".join(f"{name} {value:.4f}" for name, value in facts["metrics"].items())
    return "\n".join([
        "# shapes-vlm", "",
        "A small vision-language model that answers questions about drawn shapes and digits with one word. It is made",
        "to measure how visual tokens can be pruned, and knows nothing of photographs.", "",
        f"- {facts['parameters']} parameters, {size} bytes, float16; loads into `LlavaForConditionalGeneration`.",
        "- Trained on scenes that `attn train shapes-vlm` draws; no data of others. MIT licence, as attn.",
        f"- Accuracy on {facts['judged']} scenes of each task that it was not trained on: {scores}.",
        f"- Options: {options}",
        f"- attn {facts['attn']}, torch {facts['torch']}, {facts['seconds']} s.",
    ]) + "\n"  # fmt: skip
