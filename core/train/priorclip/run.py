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
from ...retrieve.priorclip.closed import build_model
from ...retrieve.priorclip.data import Pictures, label_warning, read_coarse, read_dataset, synthetic
from ...retrieve.priorclip.losses import Form
from ...retrieve.priorclip.model import SceneGuided
from ...retrieve.priorclip.open_domain import COARSE, NEW_SCENES, NEW_WORDS, synthetic_open
from ...retrieve.priorclip.text import Vocabulary
from .options import OPEN, OPEN_PICTURES, OWN, PICTURES, SAME, SYNTHETIC, PriorCLIPOptions
from .recipe import (
    InstructionRecipe,
    PairRecipe,
    PictureBatches,
    Together,
    object_belief,
    recalls,
    scene_captions,
    tokens_of,
)

STAGES = ("instruction", "coarse", "fine")
"""Folders of the stages inside that of the run; the last is the run's own."""
BASELINE = "baseline"
TITLES = {"priorclip": ("PriorCLIP", "plain CLIP"), "pir": ("PIR", "trunks alone")}
"""Of each variant, and what it is compared to."""
SHOWN_OF_OTHERS = ("i2t_r@1", "t2i_r@1", "mr")
"""What is reported of tests beside the first."""


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained model: of each stage that ran what it came to, the model, and its metrics on the test pictures."""

    model: SceneGuided
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
        splits, notes = read_splits(options)
        crop = options.augment == "crop" or (options.augment == "auto" and options.data not in (SYNTHETIC, OPEN))
        taught = [splits["train"], *([splits[COARSE]] if COARSE in splits else [])]
        vocabulary = Vocabulary.of(caption for pictures in taught for row in pictures.captions for caption in row)
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
        names = dict(zip(("", BASELINE), TITLES[options.variant], strict=True))
        rows = [{"model": names[name], **model.metrics} for name, model in trained.items()] if options.compare else []
        details: dict[str, Any] = {}
        if instruction := main.outcomes.get("instruction"):
            details["scene_accuracy"] = instruction.best.get("accuracy")
        return run.report(outcome, data=options.data, details=details, metrics=main.metrics, comparison=rows)


def plain_options(options: PriorCLIPOptions) -> PriorCLIPOptions:
    """The baseline of the same length: CLIP or the trunks of PIR alone, fine captions from the first step."""
    own: dict[str, Any] = dict.fromkeys(OWN[options.variant])
    plain = {"instruction": False, "coarse_steps": 0, "coarse_data": None, "center_factor": 0.0, "compare": False}
    return replace(options, **own | plain)


def read_splits(options: PriorCLIPOptions) -> tuple[dict[str, Pictures], list[str]]:
    """The pictures of a run by split, those of stage 1 as ``coarse`` where they are others, and what is to be known."""
    seed, size, source = options.compute.seed, options.image_size, options.coarse_data
    if options.data == SYNTHETIC:
        splits, notes = synthetic(PICTURES, seed, size), ["synthetic scenes"]
    elif options.data == OPEN:
        splits, notes = synthetic_open(OPEN_PICTURES, seed, size), ["synthetic scenes"]
    else:
        splits, notes = read_dataset(Path(options.data), size)
    if source == SAME or not options.stage1:
        splits.pop(COARSE, None)
    elif source is not None:
        held_out = {name for split in ("val", "test") if split in splits for name in splits[split].names}
        splits[COARSE], more = read_coarse(Path(source), size, held_out)
        notes = [*notes, *more]
    return splits, notes


def stage_steps(options: PriorCLIPOptions) -> dict[str, int]:
    """Steps of each stage that runs."""
    steps = dict.fromkeys(STAGES, 0) | {"coarse": options.stage1, "fine": options.steps - options.stage1}
    if options.instruction:
        steps["instruction"] = options.instruction_steps
    return {stage: n for stage, n in steps.items() if n}


def scenes_of(pictures: Pictures) -> tuple[str, ...]:
    """Scene labels in the order of their numbers."""
    return tuple(sorted(set(pictures.labels)))


def label_numbers(pictures: Pictures) -> torch.Tensor:
    """Numbers of the scenes [n], int64."""
    scenes = scenes_of(pictures)
    return torch.tensor([scenes.index(label) for label in pictures.labels])


def train_stages(
    run: RecipeRun, splits: Mapping[str, Pictures], vocabulary: Vocabulary, folder: Path, options: PriorCLIPOptions,
    crop: bool, done: int = 0, total: int | None = None,
) -> Trained:  # fmt: skip
    """All stages of one model; a stage that is finished already is read, not repeated.

    Parameters
    ----------
    run : RecipeRun
    splits : mapping of str to Pictures
        ``train`` and ``val``, perhaps ``test``, ``coarse`` and other tests.
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
    torch.manual_seed(options.compute.seed)
    model = build_model(options.architecture(), len(vocabulary), len(scenes)).to(run.device)
    steps = stage_steps(options)
    total = sum(steps.values()) if total is None else total
    identity = {"train": train.names, "val": val.names, "words": vocabulary.words, "crop": crop}
    if COARSE in splits and options.stage1:
        identity["coarse"] = splits[COARSE].names
    outcomes: dict[str, Outcome] = {}
    for number, (stage, count) in enumerate(steps.items()):
        shown, captions, together = stage_pairs(splits, stage)
        tokens = tokens_of(captions, vocabulary, model.architecture.max_words)
        batches = PictureBatches(
            shown, tokens, label_numbers(shown), options.batch, options.compute.seed + number, crop, run.device
        )
        recipe: Recipe
        if stage == "instruction":
            recipe = InstructionRecipe(model, batches, val, scenes)
        else:
            recipe = PairRecipe(
                model, batches, val, vocabulary, together=together, center_factor=options.center_factor,
                targets=options.affiliation_targets, form=form_of(options),
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
    metrics = recalls(model, test, vocabulary) | object_belief(model, test)
    for other in (NEW_WORDS, NEW_SCENES):
        if other in splits:
            found = recalls(model, splits[other], vocabulary)
            metrics |= {f"{other}_{name}": found[name] for name in SHOWN_OF_OTHERS}
    return Trained(model, outcomes, metrics)


def stage_pairs(splits: Mapping[str, Pictures], stage: str) -> tuple[Pictures, Sequence[Sequence[str]], Together]:
    """Pictures and captions that a stage is trained on, and which of a batch belong together."""
    train = splits["train"]
    if stage != "coarse":
        return train, train.captions, "picture"
    if COARSE in splits:
        return splits[COARSE], splits[COARSE].captions, "caption"
    return train, scene_captions(train.labels), "scene"


def form_of(options: PriorCLIPOptions) -> Form:
    """The affiliation loss as the variant has it; by class there is one form only."""
    return "pir" if options.variant == "pir" and options.affiliation_targets == "diagonal" else "priorclip"


def card(checkpoint: PriorCLIPCheckpoint, size: int) -> str:
    """The model card, Markdown."""
    facts = checkpoint.training
    counts = ", ".join(f"{n} {split}" for split, n in facts["pictures"].items())
    lines = [
        f"# {TITLES[checkpoint.architecture.variant][0]}", "",
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
