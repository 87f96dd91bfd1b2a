"""`attn train sparsifiner`: from pictures with classes to a sparse ViT with its card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from ...attention.sparsifiner.predictor import Rules
from ...fit.frame import RecipeRun, run_of
from ...fit.loop import Outcome, Plan, joined
from ...nets.sparsifiner_vit import SparsifinerConfig, SparsifinerViT
from ...nets.vit import VisionTransformer
from ...progress import Watcher
from ...prune.methods.base import Keep
from ...prune.vit.passes import pruned_images
from ...prune.vit.site import image_site
from ...prune.vit.sparsifiner import Part, Sparsifiner, token_shares
from ...prune.vit.trained import TrainedViT, plain_settings, state_of, write_trained
from ...report.model import Report
from ..vit.card import card
from ..vit.data import PictureSplits, normalised, read_pictures
from ..vit.measure import Variant, keep_for_cost, side_by_side
from ..vit.plain import class_batches, identity_of, train_plain
from .options import SparsifinerOptions
from .recipe import DistillationRecipe, ReconstructionRecipe, predictor_recall

PARTS: tuple[Part, ...] = ("attention", "tokens", "both")
"""The models of stage 2; the last is the run's own."""
FURTHER = (0.7, 0.5)
"""Budgets of patches at which the trained model is measured, too."""


def train_sparsifiner(
    options: SparsifinerOptions, *, watcher: Watcher | None = None, arguments: Mapping[str, Any] | None = None
) -> Report:
    """Train a ViT with sparse attention and fewer patches.

    Parameters
    ----------
    options : SparsifinerOptions
    watcher : Watcher, optional
        Told step and steps (of all stages and models); None: a bar on a terminal.
    arguments : mapping, optional
        What the report records of the call beside the options.

    Returns
    -------
    Report with one item: metrics on the test pictures, a table of plain and sparse models, files, warnings.

    Raises
    ------
    UsageError, InputError
        If options, pictures or folder cannot be used.
    """
    with run_of("sparsifiner", options, watcher=watcher, arguments=arguments, names=("loss", "accuracy")) as run:
        run.alone("teacher and pupils belong to one batch")
        pictures = read_pictures(options.plain.data, options.plain.image_size, options.compute.seed)
        total = options.plain.plain_steps + options.reconstruction_steps + len(PARTS) * options.steps
        done = 0

        def tell(step: int, _: int, metrics: Mapping[str, float]) -> None:
            run.progress(done + step, total, metrics)

        plan = Plan(
            steps=options.plain.plain_steps, warmup=options.warmup, learning_rate=options.learning_rate,
            weight_decay=options.weight_decay, evaluate_every=options.evaluate_every,
        )  # fmt: skip
        plain, first = train_plain(run, options.plain, pictures, plan, tell)
        outcomes = {"plain": first}
        if first.interrupted:
            return run.report(joined(outcomes, {}), data=options.plain.data)
        done += options.plain.plain_steps
        held_out, same = pictures.parts["val"], identity_of(pictures)
        teacher = network(plain, options, options.keys, {}).to(run.device)
        untrained = predictor_recall(teacher, held_out, options.keys, run.device)
        recipe = ReconstructionRecipe(teacher, class_batches(run, options.plain, pictures, 1), held_out, options.keys)
        outcomes["reconstruction"] = run.fit(
            recipe, replace(plan, steps=options.reconstruction_steps, weight_decay=0.0), identity=same,
            folder=run.output / "reconstruction", progress=tell,
        )  # fmt: skip
        if outcomes["reconstruction"].interrupted:
            return run.report(joined(outcomes, {}), data=options.plain.data)
        done += options.reconstruction_steps
        models: dict[Part, tuple[SparsifinerViT, Keep]] = {}
        for part in PARTS:
            net, keep = pupil(teacher, plain, options, part, normalised(held_out.images[:4], run.device))
            distil = DistillationRecipe(
                net.to(run.device), plain, class_batches(run, options.plain, pictures, 2), held_out
            )
            outcomes[part] = run.fit(
                distil, replace(plan, steps=options.steps, learning_rate=options.learning_rate / 4, average=0.98),
                identity=same, folder=run.output / ("" if part == PARTS[-1] else part), progress=tell,
            )  # fmt: skip
            if outcomes[part].interrupted:
                return run.report(joined(outcomes, {}), data=options.plain.data)
            done += options.steps
            models[part] = net, keep
        recall = {"recall_at_k": outcomes["reconstruction"].best["recall"], "recall_untrained": untrained,
                  "recall_random": options.keys}  # fmt: skip
        return finished(run, options, plain, models, pictures, outcomes, recall)


def network(
    plain: VisionTransformer, options: SparsifinerOptions, keys: float, tokens: Mapping[int, float]
) -> SparsifinerViT:
    """The plain ViT with predictors that know nothing yet."""
    config = SparsifinerConfig(
        **asdict(plain.config), keep_ratio=keys, reduce_n=options.reduce_n, reduce_c=options.reduce_c, rules=Rules(),
        token_keep=tokens,
    )  # fmt: skip
    net = SparsifinerViT(config)
    net.load_backbone(plain.state_dict())
    return net


def pupil(
    teacher: SparsifinerViT, plain: VisionTransformer, options: SparsifinerOptions, part: Part, images: Any
) -> tuple[SparsifinerViT, Keep]:
    """A model of stage 2 before it learns, and the budget of patches at which it costs what sparse attention costs."""
    site = image_site(teacher)
    with pruned_images(image_site(plain)) as whole:
        plain(images)
    with Sparsifiner("attention", keys=options.keys).applied(site, Keep(share=1.0)) as trace:
        teacher(images)
    share = float(trace.last.multiply_adds[0] / whole.last.multiply_adds[0])
    keys, keep = options.keys, Keep(share=1.0)
    if part != "attention":
        keys = 1.0 if part == "tokens" else 2 * options.keys
        keep = keep_for_cost(Sparsifiner(part, keys=keys), teacher, images, share, plain=plain)
    net = network(plain, options, keys, token_shares(site, keep, None, teacher.config.num_tokens - 1))
    net.load_state_dict(teacher.state_dict())
    return net, keep


def finished(
    run: RecipeRun, options: SparsifinerOptions, plain: VisionTransformer,
    models: Mapping[Part, tuple[SparsifinerViT, Keep]], pictures: PictureSplits, outcomes: Mapping[str, Outcome],
    recall: Mapping[str, float],
) -> Report:  # fmt: skip
    """The models measured on the test pictures, the last one written, all reported."""

    def checkpoint(net: SparsifinerViT, facts: Mapping[str, Any]) -> TrainedViT:
        state = {name: value.half() for name, value in state_of(net).items()}
        return TrainedViT("sparsifiner", plain.config, pictures.classes, plain_settings(net.config), state, facts)

    variants = [Variant("plain ViT", plain)]
    saved = {}
    for part, (net, keep) in models.items():
        saved[part] = checkpoint(net, {}).build().to(run.device)  # as its file holds it
        variants.append(Variant(f"sparsifiner, {part}", saved[part], Sparsifiner(part), keep))
    variants += [
        Variant(f"sparsifiner, both, keep {share:.0%}", saved["both"], Sparsifiner("both"), Keep(share=share))
        for share in FURTHER
    ]
    rows = side_by_side(variants, pictures.parts["test"], run.device)
    first, main = rows[0], rows[len(PARTS)]
    metrics = {
        "accuracy": main["accuracy"], "accuracy_plain": first["accuracy"], "accuracy_attention": rows[1]["accuracy"],
        "accuracy_tokens": rows[2]["accuracy"], "cost_share": main["cost_share"], "kept": main["kept"],
        "speedup": main["speedup"], **recall,
    }  # fmt: skip
    notes = list(pictures.notes)
    facts = run.facts(
        data=options.plain.data, pictures={split: len(part) for split, part in pictures.parts.items()},
        metrics=metrics, seconds=round(sum(outcome.seconds for outcome in outcomes.values())), notes=notes,
    )  # fmt: skip
    model = checkpoint(models["both"][0], facts)
    run.save(lambda path: write_trained(model, path), lambda size: card("Sparsifiner", model, rows, size))
    best = joined(outcomes, metrics)
    return run.report(
        replace(best, warnings=(*notes, *best.warnings)), data=options.plain.data,
        details={"token_keep": dict(models["both"][0].config.token_keep)}, comparison=rows,
    )  # fmt: skip
