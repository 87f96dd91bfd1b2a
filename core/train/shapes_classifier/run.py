"""`attn train shapes-classifier`: from nothing to an image classifier with its card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from ...fit.frame import run_of
from ...fit.loop import Plan
from ...io.atomic import write_bytes
from ...models.convolutional import preprocessor, write_convolutional
from ...models.files import write_json
from ...models.load import load_folder
from ...nets.convolutional import ConvolutionalClassifier, folded
from ...progress import Watcher
from ...prune.shapes.labelled import CLASSES, labelled_set
from ...prune.shapes.sets import TEST
from ...report.model import Report
from .options import ShapesClassifierOptions
from .recipe import PREPARATION, ClassifierRecipe, accuracy


def train_shapes_classifier(
    options: ShapesClassifierOptions, *, watcher: Watcher | None = None, arguments: Mapping[str, Any] | None = None
) -> Report:
    """Train a small image classifier on drawn pictures.

    Parameters
    ----------
    options : ShapesClassifierOptions
    watcher : Watcher, optional
        Told step and steps; None: a bar on a terminal.
    arguments : mapping, optional
        What the report records of the call beside the options.

    Returns
    -------
    Report with one item: accuracy on pictures of the test seed, of the weights as they are written; files, warnings.

    Raises
    ------
    UsageError
        If the folder cannot be used, or torch has no Muon, which the ViT needs.
    """
    with run_of("shapes-classifier", options, watcher=watcher, arguments=arguments, names=("loss", "accuracy")) as run:
        run.alone("its batches are drawn whole")
        torch.manual_seed(options.compute.seed)
        recipe = ClassifierRecipe(options, run.device)
        plan = Plan(
            steps=options.steps, warmup=options.warmup, learning_rate=options.learning_rate, average=0.98,
            stable=0.5, floor=0.02, weight_decay=options.weight_decay, evaluate_every=options.evaluate_every,
        )  # fmt: skip
        outcome = run.fit(recipe, plan, identity={"pictures": "drawn"}, optimizer=recipe.optimizer)
        metrics: dict[str, float] = {}
        if outcome.best and not outcome.interrupted:
            recipe.guided.eval()
            count = 2 * options.judged

            def write(path: Path) -> None:
                _write(recipe.guided.net, path)
                written = load_folder(path.parent, "classifier", device=run.device, dtype=torch.float32)
                metrics["accuracy"] = accuracy(written.model, labelled_set(count, seed=TEST), run.device)

            def described(size: int) -> str:
                facts = run.facts(metrics=metrics, judged=count, seconds=round(outcome.seconds))
                return card(facts, size)

            run.save(write, described)
        return run.report(outcome, data="drawn pictures", metrics=metrics)


def _write(model: Any, weights: Path) -> None:
    """The folder of a model."""
    if isinstance(model, ConvolutionalClassifier):
        write_convolutional(folded(model), weights, labels=CLASSES, images=PREPARATION)
        return
    state = {name: value.detach().cpu().half().contiguous() for name, value in model.state_dict().items()}
    write_bytes(weights, save(state, {"format": "pt"}))
    config = model.config.to_dict() | {"architectures": [type(model).__name__], "dtype": "float16"}
    write_json(weights.parent / "config.json", config)
    write_json(weights.parent / "preprocessor_config.json", preprocessor(PREPARATION))


def card(facts: Mapping[str, Any], size: int) -> str:
    """The model card, Markdown."""
    options = facts["options"]
    command = f"attn train shapes-classifier --net {options['net']} --steps {options['steps']} -o DIR"
    return "\n".join([
        f"# shapes-{options['net']}", "",
        "A small image classifier: colour and shape of the largest object of a drawn picture of 64 px, among smaller",
        "objects, strokes and digits. It is made to be looked into (`attn probe`), and knows nothing of photographs.",
        "",
        f"- {len(CLASSES)} classes, such as {CLASSES[32]!r}; {size} bytes, float16.",
        "- Data: pictures that the recipe draws, new ones at every step; no data of others. MIT licence, as attn.",
        f"- Accuracy on {facts['judged']} pictures of another seed: {facts['metrics']['accuracy']:.4f}"
        f" (chance {1 / len(CLASSES):.4f}).",
        f"- Command: `{command}`; options: {options}",
        f"- attn {facts['attn']}, torch {facts['torch']}, {facts['seconds']} s.",
    ]) + "\n"  # fmt: skip
