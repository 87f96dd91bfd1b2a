"""`attn train fsgnet`: from a folder of photos and labels to a model file with its card."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import attn

from ...device import pick_device, set_threads
from ...errors import UsageError
from ...filters import NEEDS_IMAGES
from ...fit.loop import Plan, fit
from ...fit.report import CARD, MODEL, training_report
from ...io.atomic import write_text
from ...report.model import Report, plain
from ...segment.fsgnet.checkpoint import FSGNetCheckpoint, read_checkpoint, write_checkpoint
from ...segment.fsgnet.trunks import NAMES
from ...segment.prepare import Preparation
from .augment import AUGMENTATIONS
from .data import find_pairs, left_out
from .options import FSGNetOptions, check_options
from .recipe import CropBatches, Example, FSGNetRecipe, load_example

Progress = Callable[[int, int, Mapping[str, float]], None]


def train_fsgnet(
    data: Path, output: Path, options: FSGNetOptions, *, restart: bool = False, threads: int | None = None,
    progress: Progress = lambda step, steps, metrics: None, arguments: Mapping[str, Any] | None = None,
) -> Report:  # fmt: skip
    """Train a vessel segmentation network.

    Parameters
    ----------
    data : Path
        See ``data.find_pairs``.
    output : Path
        Folder of the run: ``model.safetensors``, ``model.md``, ``metrics.jsonl``, ``curve.png`` and the checkpoint from
        which the same call goes on.
    options : FSGNetOptions
    restart : bool
        Begin anew where the folder holds an unfinished run.
    threads : int, optional
    progress : callable
        Told step, steps and the newest metrics.
    arguments : mapping, optional
        What the report records as the call's arguments.

    Returns
    -------
    Report with one item: metrics of the best evaluation, files, warnings.

    Raises
    ------
    UsageError, InputError
        If options, data or folder cannot be used.
    """
    start = time.perf_counter()
    check_options(options)
    device = pick_device(options.device)
    set_threads(threads)
    pairs = find_pairs(data)
    if not 1 <= options.hold_out <= len(pairs) - 1:
        raise UsageError(
            f"--hold-out: {options.hold_out} of {len(pairs)} photos leaves none to train on, or to choose by."
        )
    preparation = Preparation(normalise=options.normalise)  # type: ignore[arg-type]
    examples = [load_example(pair, preparation) for pair in pairs]
    held_out, training = split(examples, options.hold_out)
    batches = CropBatches(
        training, preparation, AUGMENTATIONS[options.augment], options.crop, options.batch, options.seed, device
    )
    net, notes = start_weights(options, batches)
    recipe = FSGNetRecipe(net.to(device), batches, held_out)
    plan = Plan(
        steps=options.steps, warmup=options.warmup, learning_rate=options.learning_rate,
        weight_decay=options.weight_decay, cycles=options.cycles, evaluate_every=options.evaluate_every,
        seed=options.seed,
    )  # fmt: skip
    identity = asdict(options) | {"photos": [e.name for e in training], "held out": [e.name for e in held_out]}
    for free in ("steps", "device", "evaluate_every"):  # a run may be lengthened, moved, and looked at more often
        identity.pop(free)
    outcome = fit(recipe, plan, output, resume=not restart, identity=identity, progress=progress)
    shown = plain(asdict(options)) | {"weights": options.weights and options.weights.name}
    facts = {
        "attn": attn.__version__, "torch": torch.__version__, "data": data.name, "photos": len(training),
        "held_out": [e.name for e in held_out], "options": shown, "best": outcome.best,
        "seconds": round(outcome.seconds), "notes": notes,
    }  # fmt: skip
    name = NAMES[options.architecture.trunk]
    if outcome.best:
        checkpoint = FSGNetCheckpoint(
            name, options.architecture, preparation, outcome.best["threshold"], net.state_dict(), facts
        )
        write_checkpoint(checkpoint, output / MODEL)
        write_text(output / CARD, card(checkpoint, (output / MODEL).stat().st_size))
    return training_report(
        "fsgnet", str(data), output, outcome, device=str(device), seconds=time.perf_counter() - start,
        details={"options": plain(asdict(options)), "initialised": list(notes)}, arguments=arguments,
        notices=(
            "For research, not for diagnosis.", *left_out(pairs), *(n for example in examples for n in example.notes),
        ),
    )  # fmt: skip


def split(examples: Sequence[Example], hold_out: int) -> tuple[list[Example], list[Example]]:
    """Held-out and training photos: every n-th is held out, so that both halves see all of an ordered data set."""
    stride = len(examples) / hold_out
    chosen = {min(len(examples) - 1, int((i + 1) * stride) - 1) for i in range(hold_out)}
    held = [e for i, e in enumerate(examples) if i in chosen]
    return held, [e for i, e in enumerate(examples) if i not in chosen]


def start_weights(options: FSGNetOptions, batches: CropBatches) -> tuple[torch.nn.Module, list[str]]:
    """The network before its first step, and what its initialiser reports."""
    if options.weights is not None:
        start = read_checkpoint(options.weights)
        if start.architecture != options.architecture:
            raise UsageError(f"--weights: {options.weights} holds {start.architecture}, not {options.architecture}.")
        return start.build(), [f"started from {options.weights.name}"]
    torch.manual_seed(options.seed)
    net = options.architecture.build()
    if options.init == "torch-default":
        return net, []
    from ...filters.initialise import initialise

    images = batches(0)[0].cpu().contiguous() if options.init in NEEDS_IMAGES else None
    generator = torch.Generator().manual_seed(options.seed)
    return net, initialise(net, options.init, generator=generator, images=images)


def card(checkpoint: FSGNetCheckpoint, size: int) -> str:
    """The model card, Markdown."""
    facts = checkpoint.training
    best = facts["best"]
    lines = [
        f"# {checkpoint.name}", "",
        "Retinal vessel segmentation of fundus photographs. For research, not for diagnosis.", "",
        f"- Architecture: {checkpoint.architecture}",
        f"- Preparation: {checkpoint.preparation}",
        f"- Trained on {facts['photos']} photos of `{facts['data']}`; held out for selection and threshold: "
        f"{', '.join(facts['held_out'])}. The terms of that data set apply to what is made from it.",
        f"- Options: {facts['options']}",
        f"- Best evaluation (step {best['step']}): " + ", ".join(
            f"{name} {best[name]:.4f}" for name in ("f1", "auc", "sensitivity", "specificity") if name in best
        ) + f", threshold {checkpoint.threshold:.4f}",
        f"- attn {facts['attn']}, torch {facts['torch']}, {facts['seconds']} s; {size} bytes, float16",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"
