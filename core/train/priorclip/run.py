"""`attn train priorclip`: from pictures with captions to a model file with its card."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

import attn

from ...device import pick_device, set_threads
from ...fit.loop import Outcome, Plan, Recipe, fit
from ...fit.report import CARD, MODEL, training_report
from ...io.atomic import write_text
from ...report.model import Report, plain
from ...retrieve.priorclip.checkpoint import PriorCLIPCheckpoint, write_checkpoint
from ...retrieve.priorclip.data import Pictures, label_warning, read_dataset, synthetic
from ...retrieve.priorclip.model import PriorCLIP
from ...retrieve.priorclip.text import Vocabulary
from .options import SYNTHETIC, PriorCLIPOptions, check_options
from .recipe import InstructionRecipe, PairRecipe, PictureBatches, object_belief, recalls, scene_captions, tokens_of

STAGES = ("instruction", "coarse", "fine")
"""Folders of the stages inside that of the run; the last is the run's own."""
BASELINE = "baseline"
Progress = Callable[[int, int, Mapping[str, float]], None]


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
    data: str | Path, output: Path, options: PriorCLIPOptions, *, restart: bool = False, threads: int | None = None,
    progress: Progress = lambda step, steps, metrics: None, arguments: Mapping[str, Any] | None = None,
) -> Report:  # fmt: skip
    """Train a retrieval model for pictures from above.

    Parameters
    ----------
    data : str or Path
        A JSON file (see ``priorclip.data``), or ``"synthetic"``: scenes drawn from the seed.
    output : Path
        Folder of the run: ``model.safetensors``, ``model.md``, ``metrics.jsonl``, ``curve.png`` and the checkpoints
        from which the same call goes on; the earlier stages in ``instruction/`` and ``coarse/``, with ``compare`` the
        plain model in ``baseline/``.
    options : PriorCLIPOptions
    restart : bool
        Begin anew where the folder holds an unfinished run.
    threads : int, optional
    progress : callable
        Told step, steps (of all stages and models) and the newest metrics.
    arguments : mapping, optional
        What the report records as the call's arguments.

    Returns
    -------
    Report with one item: metrics on the test pictures (the validation pictures where there are none), files, warnings.

    Raises
    ------
    UsageError, InputError
        If options, data or folder cannot be used.
    """
    start = time.perf_counter()
    check_options(options)
    device = pick_device(options.device)
    set_threads(threads)
    size = options.architecture.image_size
    if str(data) == "synthetic":
        splits, notes = synthetic(SYNTHETIC, options.seed, size), ["synthetic scenes"]
    else:
        splits, notes = read_dataset(Path(data), size)
    crop = options.augment == "crop" or (options.augment == "auto" and str(data) != "synthetic")
    warning = label_warning(splits["train"].labels, options.batch)
    vocabulary = Vocabulary.of(caption for row in splits["train"].captions for caption in row)
    models = {"": options}
    if options.compare:
        models[BASELINE] = plain_options(options)
    total, done = sum(sum(stage_steps(one).values()) for one in models.values()), 0

    def tell(step: int, steps: int, metrics: Mapping[str, float]) -> None:
        progress(done + step, total, metrics)

    trained: dict[str, Trained] = {}
    for name, one in models.items():
        trained[name] = train_stages(splits, vocabulary, output / name, one, crop, device, not restart, tell)
        done += sum(stage_steps(one).values())
        if trained[name].interrupted:
            break
    main = trained[""]
    facts = {
        "attn": attn.__version__, "torch": torch.__version__, "data": Path(data).name,
        "pictures": {split: len(pictures) for split, pictures in splits.items()}, "options": plain(asdict(options)),
        "metrics": dict(main.metrics), "seconds": round(sum(o.seconds for o in main.outcomes.values())), "notes": notes,
    }  # fmt: skip
    if main.metrics:
        scenes = scenes_of(splits["train"])
        checkpoint = PriorCLIPCheckpoint(options.architecture, vocabulary, scenes, main.model.state_dict(), facts)
        write_checkpoint(checkpoint, output / MODEL)
        write_text(output / CARD, card(checkpoint, (output / MODEL).stat().st_size))
    return training_report(
        "priorclip", str(data), output, _joined(trained, [*notes, *([warning] if warning else [])]),
        device=str(device), seconds=time.perf_counter() - start, details=_details(options, trained),
        metrics=main.metrics, arguments=arguments,
    )  # fmt: skip


def plain_options(options: PriorCLIPOptions) -> PriorCLIPOptions:
    """The baseline of the same length: CLIP alone, fine captions from the first step."""
    shape = replace(options.architecture, instruction=False)
    return replace(options, architecture=shape, coarse_steps=0, center_factor=0.0, compare=False)


def stage_steps(options: PriorCLIPOptions) -> dict[str, int]:
    """Steps of each stage that runs."""
    steps = dict.fromkeys(STAGES, 0) | {"coarse": options.coarse_steps, "fine": options.steps - options.coarse_steps}
    if options.architecture.instruction:
        steps["instruction"] = options.instruction_steps
    return {stage: n for stage, n in steps.items() if n}


def scenes_of(pictures: Pictures) -> tuple[str, ...]:
    """Scene labels in the order of their numbers."""
    return tuple(sorted(set(pictures.labels)))


def train_stages(
    splits: Mapping[str, Pictures], vocabulary: Vocabulary, folder: Path, options: PriorCLIPOptions, crop: bool,
    device: torch.device, resume: bool, progress: Progress = lambda step, steps, metrics: None,
) -> Trained:  # fmt: skip
    """All stages of one model; a stage that is finished already is read, not repeated.

    Parameters
    ----------
    splits : mapping of str to Pictures
        ``train`` and ``val``; ``test``, where there is one, gives the metrics.
    vocabulary : Vocabulary
    folder : Path
    options : PriorCLIPOptions
    crop : bool
        Random crops and mirror images.
    device : torch.device
    resume : bool
    progress : callable
        Told step and steps of all stages.
    """
    train, val = splits["train"], splits["val"]
    scenes = scenes_of(train)
    labels = torch.tensor([scenes.index(label) for label in train.labels])
    torch.manual_seed(options.seed)
    model = PriorCLIP(options.architecture, len(vocabulary), len(scenes)).to(device)
    captions = {"coarse": scene_captions(train.labels), "fine": train.captions, "instruction": train.captions}
    steps = stage_steps(options)
    identity = asdict(options) | {"train": train.names, "val": val.names, "words": vocabulary.words, "crop": crop}
    for free in ("steps", "device", "evaluate_every", "compare"):  # a run may be lengthened, moved, ...
        identity.pop(free)
    outcomes: dict[str, Outcome] = {}
    done = 0
    for number, (stage, count) in enumerate(steps.items()):
        tokens = tokens_of(captions[stage], vocabulary, options.architecture.max_words)
        batches = PictureBatches(train, tokens, labels, options.batch, options.seed + number, crop, device)
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
            weight_decay=options.weight_decay, evaluate_every=options.evaluate_every, seed=options.seed,
        )  # fmt: skip

        def tell(step: int, _: int, metrics: Mapping[str, float], done: int = done) -> None:
            progress(done + step, sum(steps.values()), metrics)

        place = folder if stage == "fine" else folder / stage
        outcomes[stage] = fit(recipe, plan, place, resume=resume, identity=identity, progress=tell)
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
    stages = main.outcomes.items()
    warnings = [f"{stage} stage: {text}" for stage, outcome in stages for text in outcome.warnings]
    return Outcome(
        main.outcomes["fine"].best if main.metrics else {},
        tuple(row for _, outcome in stages for row in outcome.history),
        sum(outcome.seconds for _, outcome in stages), (*notes, *warnings),
        any(one.interrupted for one in trained.values()),
    )  # fmt: skip


def _details(options: PriorCLIPOptions, trained: Mapping[str, Trained]) -> dict[str, Any]:
    """Options, accuracy of stage 0, and both models side by side where two were trained."""
    details: dict[str, Any] = {"options": asdict(options)}
    if instruction := trained[""].outcomes.get("instruction"):
        details["scene_accuracy"] = instruction.best.get("accuracy")
    if options.compare:
        names = {"": "PriorCLIP", BASELINE: "plain CLIP"}
        details["comparison"] = [{"model": names[name], **one.metrics} for name, one in trained.items()]
    return details
