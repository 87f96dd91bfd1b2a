"""`attn train priorclip`: from pictures with captions to a model file with its card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ...fit.frame import RecipeRun, run_of
from ...fit.loop import Outcome, Plan, Recipe, joined
from ...progress import Watcher
from ...report.model import Report
from ...retrieve.priorclip.checkpoint import PriorCLIPCheckpoint, write_checkpoint
from ...retrieve.priorclip.data import Pictures, label_warning, read_dataset, synthetic
from ...retrieve.priorclip.model import PriorCLIP
from ...retrieve.priorclip.text import Vocabulary
from .options import PICTURES, SYNTHETIC, PriorCLIPOptions
from .recipe import InstructionRecipe, PairRecipe, PictureBatches, object_belief, recalls, scene_captions, tokens_of

STAGES = ("instruction", "coarse", "fine")
"""Folders of the stages inside that of the run; the last is the run's own."""
BASELINE = "baseline"


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained model: of each stage that ran what it came to, the model, and its metrics on the test pictures."""

    model: PriorCLIP
    outcomes: Mapping[str, Outcome]
    metrics: Mapping[str, float]

    @property
    def interrupted(self) -> bool:
        return any(outcome.interrupted for outcome in self.outcomes.values())


def train_priorclip(
    options: PriorCLIPOptions, *, watcher: Watcher | None = None, arguments: Mapping[str, Any] | None = None
) -> Report:
    """Train a retrieval model for pictures from above.

    Parameters
    ----------
    options : PriorCLIPOptions
    watcher : Watcher, optional
        Told step and steps (of all stages and models); None: a bar on a terminal.
    arguments : mapping, optional
        What the report records of the call beside the options.

    Returns
    -------
    Report with one item: metrics on the test pictures (the validation pictures where there are none), files, warnings.

    Raises
    ------
    UsageError, InputError
        If options, data or folder cannot be used.
    """
    with run_of("priorclip", options, watcher=watcher, arguments=arguments, names=("loss", "mr")) as run:
        run.alone("its losses compare all pairs of a step")
        if options.data == SYNTHETIC:
            splits, notes = synthetic(PICTURES, options.compute.seed, options.image_size), ["synthetic scenes"]
        else:
            splits, notes = read_dataset(Path(options.data), options.image_size)
        crop = options.augment == "crop" or (options.augment == "auto" and options.data != SYNTHETIC)
        vocabulary = Vocabulary.of(caption for row in splits["train"].captions for caption in row)
        models = {"": options} | ({BASELINE: plain_options(options)} if options.compare else {})
        total, done = sum(sum(stage_steps(model).values()) for model in models.values()), 0
        trained: dict[str, Trained] = {}
        for name, model in models.items():
            trained[name] = train_stages(run, splits, vocabulary, run.output / name, model, crop, done, total)
            done += sum(stage_steps(model).values())
            if trained[name].interrupted:
                break
        main = trained[""]
        if main.metrics:
            facts = run.facts(
                data=Path(options.data).name, pictures={split: len(shown) for split, shown in splits.items()},
                metrics=dict(main.metrics), seconds=round(sum(o.seconds for o in main.outcomes.values())), notes=notes,
            )  # fmt: skip
            checkpoint = PriorCLIPCheckpoint(
                options.architecture(), vocabulary, scenes_of(splits["train"]), main.model.state_dict(), facts
            )
            run.save(lambda path: write_checkpoint(checkpoint, path), lambda size: card(checkpoint, size))
        warning = label_warning(splits["train"].labels, options.batch)
        outcome = _joined(trained, [*notes, *([warning] if warning else [])])
        names = {"": "PriorCLIP", BASELINE: "plain CLIP"}
        rows = [{"model": names[name], **model.metrics} for name, model in trained.items()] if options.compare else []
        details: dict[str, Any] = {}
        if instruction := main.outcomes.get("instruction"):
            details["scene_accuracy"] = instruction.best.get("accuracy")
        return run.report(outcome, data=options.data, details=details, metrics=main.metrics, comparison=rows)


def plain_options(options: PriorCLIPOptions) -> PriorCLIPOptions:
    """The baseline of the same length: CLIP alone, fine captions from the first step."""
    return replace(options, instruction=False, coarse_steps=0, center_factor=0.0, compare=False)


def stage_steps(options: PriorCLIPOptions) -> dict[str, int]:
    """Steps of each stage that runs."""
    steps = dict.fromkeys(STAGES, 0) | {"coarse": options.coarse_steps, "fine": options.steps - options.coarse_steps}
    if options.instruction:
        steps["instruction"] = options.instruction_steps
    return {stage: n for stage, n in steps.items() if n}


def scenes_of(pictures: Pictures) -> tuple[str, ...]:
    """Scene labels in the order of their numbers."""
    return tuple(sorted(set(pictures.labels)))


def train_stages(
    run: RecipeRun, splits: Mapping[str, Pictures], vocabulary: Vocabulary, folder: Path, options: PriorCLIPOptions,
    crop: bool, done: int = 0, total: int | None = None,
) -> Trained:  # fmt: skip
    """All stages of one model; a stage that is finished already is read, not repeated.

    Parameters
    ----------
    run : RecipeRun
    splits : mapping of str to Pictures
        ``train`` and ``val``, perhaps ``test``.
    vocabulary : Vocabulary
    folder : Path
        Of the last stage; the others have folders in it.
    options : PriorCLIPOptions
        Of this model.
    crop : bool
        Random crops and mirror images.
    done, total : int
        Steps of the run before this model, and of all models; by default of this one.
    """
    train, val = splits["train"], splits["val"]
    scenes = scenes_of(train)
    labels = torch.tensor([scenes.index(label) for label in train.labels])
    torch.manual_seed(options.compute.seed)
    model = PriorCLIP(options.architecture(), len(vocabulary), len(scenes)).to(run.device)
    captions = {"coarse": scene_captions(train.labels), "fine": train.captions, "instruction": train.captions}
    steps = stage_steps(options)
    total = sum(steps.values()) if total is None else total
    identity = {"train": train.names, "val": val.names, "words": vocabulary.words, "crop": crop}
    outcomes: dict[str, Outcome] = {}
    for number, (stage, count) in enumerate(steps.items()):
        tokens = tokens_of(captions[stage], vocabulary, model.architecture.max_words)
        batches = PictureBatches(train, tokens, labels, options.batch, options.compute.seed + number, crop, run.device)
        recipe: Recipe
        if stage == "instruction":
            recipe = InstructionRecipe(model, batches, val, scenes)
        else:
            recipe = PairRecipe(
                model, batches, val, vocabulary, coarse=stage == "coarse", center_factor=options.center_factor,
                targets=options.affiliation_targets,
            )  # fmt: skip
        plan = Plan(
            steps=count, warmup=options.warmup, learning_rate=options.learning_rate,
            weight_decay=options.weight_decay, evaluate_every=options.evaluate_every,
        )  # fmt: skip

        def tell(step: int, _: int, metrics: Mapping[str, float], done: int = done) -> None:
            run.progress(done + step, total, metrics)

        place = folder if stage == "fine" else folder / stage
        outcomes[stage] = run.fit(recipe, plan, identity=identity, folder=place, options=options, progress=tell)
        done += count
        if outcomes[stage].interrupted:
            return Trained(model, outcomes, {})
        if stage == "instruction" and model.instruction is not None:
            model.instruction.requires_grad_(False)  # the prior: what follows must not change it
    model.eval()
    test = splits.get("test", val)
    return Trained(model, outcomes, recalls(model, test, vocabulary) | object_belief(model, test))


def card(checkpoint: PriorCLIPCheckpoint, size: int) -> str:
    """The model card, Markdown."""
    facts = checkpoint.training
    counts = ", ".join(f"{n} {split}" for split, n in facts["pictures"].items())
    lines = [
        "# PriorCLIP", "",
        "Finds pictures from above by sentences and sentences by pictures, guided by a scene classifier.", "",
        f"- Architecture: {checkpoint.architecture}",
        f"- Trained on `{facts['data']}`: pictures {counts}. The terms of that data set apply to what is made from it.",
        f"- Vocabulary of {len(checkpoint.vocabulary.words)} words; scenes: {', '.join(checkpoint.scenes[:40])}",
        f"- Options: {facts['options']}",
        "- Test pictures: " + ", ".join(f"{name} {value:.4f}" for name, value in facts["metrics"].items()),
        f"- Notes: {'; '.join(facts['notes']) or 'none'}",
        f"- attn {facts['attn']}, torch {facts['torch']}, {facts['seconds']} s; {size} bytes, float16",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _joined(trained: Mapping[str, Trained], notes: Sequence[str]) -> Outcome:
    """All stages of the main model as one outcome; the best is that of the last stage."""
    main = trained[""]
    best = main.outcomes["fine"].best if main.metrics else {}
    whole = joined({f"{stage} stage": outcome for stage, outcome in main.outcomes.items()}, best)
    interrupted = any(model.interrupted for model in trained.values())
    return replace(whole, warnings=(*notes, *whole.warnings), interrupted=interrupted)
