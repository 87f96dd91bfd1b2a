"""`attn train as-vit`: from pictures with classes to a pruned ViT with its card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...errors import UsageError
from ...fit.frame import RecipeRun, run_of
from ...fit.loop import Outcome, Plan
from ...nets.as_vit import THRESHOLDS, AdaptiveViT
from ...nets.vit import VisionTransformer
from ...options import OptionError
from ...progress import Watcher
from ...prune.methods.base import Keep
from ...prune.vit.as_vit import AsViT, fit_thresholds
from ...prune.vit.ranked import ClassAttention, RandomPatches, positions_of
from ...prune.vit.site import image_site
from ...prune.vit.tome import ToMe
from ...prune.vit.trained import TrainedViT, state_of, write_trained
from ...report.model import Report
from ..vit.card import card
from ..vit.data import LabelledPictures, PictureSplits, normalised, read_pictures
from ..vit.measure import Variant, keep_for_cost, side_by_side
from ..vit.plain import class_batches, identity_of, train_plain
from .options import AsViTOptions
from .recipe import PAPER_PATCHES, AdaptiveRecipe, settle

FITTED = 512
"""Training pictures that thresholds are fitted on."""


def train_as_vit(
    options: AsViTOptions, *, watcher: Watcher | None = None, arguments: Mapping[str, Any] | None = None
) -> Report:
    """Train a ViT with thresholds.

    Parameters
    ----------
    options : AsViTOptions
    watcher : Watcher, optional
        Told step and steps (of both stages); None: a bar on a terminal.
    arguments : mapping, optional
        What the report records of the call beside the options.

    Returns
    -------
    Report with one item: metrics on the test pictures, a table of plain and pruned models, files, warnings.

    Raises
    ------
    UsageError, InputError
        If options, pictures or folder cannot be used.
    """
    with run_of("as-vit", options, watcher=watcher, arguments=arguments, names=("loss", "accuracy")) as run:
        run.alone("budget and teacher belong to one batch")
        pictures = read_pictures(options.plain.data, options.plain.image_size, options.compute.seed)
        fitted = some(pictures.parts["train"], FITTED)
        total = options.plain.plain_steps + options.steps
        plan = Plan(
            steps=options.plain.plain_steps, warmup=options.warmup, learning_rate=options.learning_rate,
            weight_decay=options.weight_decay, evaluate_every=options.evaluate_every,
        )  # fmt: skip

        def tell(done: int) -> Any:
            return lambda step, _, metrics: run.progress(done + step, total, metrics)

        plain, first = train_plain(run, options.plain, pictures, plan, tell(0))
        if first.interrupted:
            return run.report(replace(first, best={}), data=options.plain.data)
        net = started(plain, options, fitted, run)
        rate = options.learning_rate / 4
        recipe = AdaptiveRecipe(
            net, plain, class_batches(run, options.plain, pictures, 1), pictures.parts["val"], budget=options.budget,
            rate=rate, weight_decay=options.weight_decay,
        )  # fmt: skip
        # one norm for all gradients would be that of the thresholds, which are divided by tau: the recipe has its own
        plan = replace(plan, steps=options.steps, learning_rate=rate, clip=0.0, average=0.98)
        outcome = run.fit(
            recipe, plan, identity=identity_of(pictures), progress=tell(options.plain.plain_steps),
            optimizer=recipe.optimizer,
        )  # fmt: skip
        if outcome.interrupted:
            return run.report(replace(outcome, best={}), data=options.plain.data)
        return finished(run, options, plain, net, pictures, fitted, (first, outcome))


def some(pictures: LabelledPictures, count: int) -> LabelledPictures:
    """The first ones."""
    return LabelledPictures(pictures.images[:count], pictures.labels[:count], pictures.names[:count])


def started(plain: VisionTransformer, options: AsViTOptions, pictures: LabelledPictures, run: RecipeRun) -> AdaptiveViT:
    """The plain ViT with thresholds. Raises ``OptionError`` where the budget cannot be met."""
    positions = positions_of(plain.config.depth)
    images = normalised(pictures.images, run.device)
    try:
        keep = keep_for_cost(ClassAttention(), plain, images[:4], options.budget)
    except UsageError as error:
        raise OptionError(f"{{budget}}: {options.budget}: {error}") from None
    thresholds: tuple[float, ...]
    if options.start == "quantiles":
        thresholds = fit_thresholds(image_site(plain), images.split(64), keep, positions)  # type: ignore[no-untyped-call]
    else:
        thresholds = tuple(value * PAPER_PATCHES / plain.config.patches for value in THRESHOLDS[: len(positions)])
    net = AdaptiveViT(plain.config, positions, thresholds)
    net.load_state_dict(plain.state_dict(), strict=False)
    return net.to(run.device)


def finished(
    run: RecipeRun, options: AsViTOptions, plain: VisionTransformer, net: AdaptiveViT, pictures: PictureSplits,
    fitted: LabelledPictures, outcomes: tuple[Outcome, Outcome],
) -> Report:  # fmt: skip
    """Thresholds settled, the model measured on the test pictures, written and reported."""

    def checkpoint(net: AdaptiveViT, facts: Mapping[str, Any]) -> TrainedViT:
        settings = {"positions": net.positions, "thresholds": [float(t.detach()) for t in net.thresholds]}
        state = {name: value.half() for name, value in state_of(net).items()}
        return TrainedViT("as-vit", net.config, pictures.classes, settings, state, facts)

    saved = checkpoint(net, {}).build().to(run.device)  # as its file holds it
    assert isinstance(saved, AdaptiveViT)
    factor = settle(saved, fitted, options.budget, run.device)
    sample = normalised(fitted.images[:4], run.device)
    images = normalised(fitted.images, run.device).split(64)  # type: ignore[no-untyped-call]
    keep = {name: keep_for_cost(method, plain, sample, options.budget) for name, method in
            (("class-attention", ClassAttention()), ("tome", ToMe()))}  # fmt: skip
    calibrated, _ = AsViT().fitted(image_site(plain), images, keep["class-attention"])
    rows = side_by_side(
        [
            Variant("plain ViT", plain),
            Variant("as-vit, trained", saved, AsViT(), Keep(share=options.budget)),
            Variant("plain + as-vit, quantiles", plain, calibrated, keep["class-attention"]),
            Variant("plain + class-attention", plain, ClassAttention(), keep["class-attention"]),
            Variant("plain + tome", plain, ToMe(), keep["tome"]),
            Variant("plain + random", plain, RandomPatches(seed=options.compute.seed), keep["class-attention"]),
        ],
        pictures.parts["test"], run.device,
    )  # fmt: skip
    main, first = rows[1], rows[0]
    metrics = {
        "accuracy": main["accuracy"], "accuracy_plain": first["accuracy"], "cost_share": main["cost_share"],
        "kept": main["kept"], "kept_std": main["kept_std"], "speedup": main["speedup"],
    }  # fmt: skip
    notes = list(pictures.notes)
    if abs(main["cost_share"] / options.budget - 1) > 0.02:
        notes.append(f"test pictures cost {main['cost_share']:.3f} of the plain ViT, not the {options.budget:g} wanted")
    facts = run.facts(
        data=options.plain.data, pictures={split: len(part) for split, part in pictures.parts.items()},
        metrics=metrics, seconds=round(sum(outcome.seconds for outcome in outcomes)), notes=notes,
    )  # fmt: skip
    model = checkpoint(saved, facts)
    run.save(lambda path: write_trained(model, path), lambda size: card("AS-ViT", model, rows, size))
    warnings = [f"{name}: {text}" for name, one in zip(("plain ViT", "as-vit"), outcomes, strict=True)
                for text in one.warnings]  # fmt: skip
    best = replace(outcomes[1], best=metrics, warnings=(*notes, *warnings))
    details = {"thresholds": model.settings["thresholds"], "positions": net.positions, "settled_factor": factor}
    return run.report(best, data=options.plain.data, details=details, comparison=rows)
