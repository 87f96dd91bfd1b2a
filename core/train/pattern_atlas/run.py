"""`attn train pattern-atlas`: from pictures and a vision transformer to an autoencoder of attention patterns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ...fit.frame import run_of
from ...fit.loop import Plan
from ...models.load import load_model
from ...nets.pattern_autoencoder import PatternAutoencoder, write_atlas
from ...progress import Watcher
from ...report.model import Report
from .options import PatternAtlasOptions
from .recipe import PatternRecipe, listed, patterns_of, steps_of


def train_pattern_atlas(
    options: PatternAtlasOptions, *, watcher: Watcher | None = None, arguments: Mapping[str, Any] | None = None
) -> Report:
    """Train an autoencoder of attention patterns.

    Parameters
    ----------
    options : PatternAtlasOptions
    watcher : Watcher, optional
        Told step and steps; None: a bar on a terminal.
    arguments : mapping, optional
        What the report records of the call beside the options.

    Returns
    -------
    Report with one item: reconstruction error on patterns that were held out, before and after; files, warnings.

    Raises
    ------
    UsageError, InputError
        If options, pictures, model or folder cannot be used.
    """
    with run_of("pattern-atlas", options, watcher=watcher, arguments=arguments, names=("loss", "explained")) as run:
        run.alone("its patterns fit one process")
        loaded = load_model(options.model, "vision", device=run.device)
        samples, names = patterns_of(loaded, options.data, options.compute.seed, options.samples)
        torch.manual_seed(options.compute.seed)
        net = PatternAutoencoder(samples.shape[1], options.code).to(run.device)
        recipe = PatternRecipe(net, samples.to(run.device), options.batch, options.compute.seed)
        steps = steps_of(len(recipe.train), options.batch, options.epochs)
        before = recipe.evaluate(net)["error"]
        plan = Plan(
            steps=steps, warmup=0, learning_rate=options.learning_rate, weight_decay=0.0, average=0.0, clip=0.0,
            evaluate_every=max(1, steps // 10),
        )  # fmt: skip
        outcome = run.fit(recipe, plan, identity={"pictures": names, "model": loaded.fingerprint})
        metrics: dict[str, float] = {}
        if outcome.best:
            metrics = {"error_before": before, "error": outcome.best["error"], "explained": outcome.best["explained"]}
            facts = run.facts(
                model=options.model, fingerprint=loaded.fingerprint, patterns=len(samples), pictures=listed(names),
                metrics=metrics,
            )  # fmt: skip

            def write(path: Path) -> None:
                write_atlas(net, path, facts)

            run.save(write, lambda size: card(net, facts, size))
        return run.report(outcome, data=options.data, metrics=metrics, details={"patterns": len(samples)})


def card(net: PatternAutoencoder, facts: Mapping[str, Any], size: int) -> str:
    """The model card, Markdown."""
    metrics = facts["metrics"]
    return "\n".join([
        "# Autoencoder of attention patterns", "",
        "Lays out what heads of a vision transformer do, for `attn probe vit --atlas`.", "",
        f"- {net.inputs} numbers to {net.code} and back; {size} bytes, float16.",
        f"- Of `{facts['model']}` ({facts['fingerprint'][:12]}), {facts['patterns']} patterns: {facts['pictures']}.",
        f"- Mean squared error on a tenth that was held out: {metrics['error_before']:.4g} before, "
        f"{metrics['error']:.4g} after ({metrics['explained']:.1%} of the variance is kept).",
        f"- Options: {facts['options']}",
        f"- attn {facts['attn']}, torch {facts['torch']}",
    ]) + "\n"  # fmt: skip
